"""The commands that are printed beside a run: right, or said to be none."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
from pathlib import Path

import msgspec
import pytest
from artificial import sampled

from rbserve.core.settings import Settings
from rbserve.data.artifact import Artifact, open_artifact
from rbserve.data.dataset import Dataset
from rbserve.home.commands import command, model_option, option_of, serve_command, why_absent
from rbserve.models.configs import config_to_dict
from rbserve.models.zoo import find_model
from rbserve.profilers.measure.harness import default_plan, profile
from rbserve.runs.measurement import Measurement

ROW = find_model("dnn")


def run(**changes: object) -> Measurement:
    """A run of the row as it is, trained with its own settings, and kept at its own place."""
    usual = {
        "config": config_to_dict(ROW.config),
        "settings": dataclasses.asdict(Settings(**ROW.training)),
        "artifact": "dnn",
    }
    return msgspec.structs.replace(sampled("dnn", {"onnx-fp32": 1.0}), **{**usual, **changes})


def with_settings(**changes: object) -> dict[str, object]:
    return dataclasses.asdict(Settings(**{**ROW.training, **changes}))


def test_a_row_as_it_is_needs_no_training_of_its_own() -> None:
    assert command(run()).startswith("rbserve profile --model dnn --dataset ml-100k ")


def test_settings_of_a_training_that_are_not_the_rows_are_part_of_the_command() -> None:
    assert command(run(settings=with_settings(epochs=1, lr=0.01, micro_batch=7))).startswith(
        "rbserve train --model dnn --dataset ml-100k --micro-batch 7 --lr 0.01 --epochs 1 "
        "&& rbserve profile --model dnn "
    )


def test_a_model_kept_elsewhere_is_trained_to_where_it_was() -> None:
    kept = run(artifact="kept/dnn 32", config={**config_to_dict(ROW.config), "dim": 32})
    assert command(kept).startswith(
        "rbserve train --model dnn --dataset ml-100k --set dim=32 --out 'kept/dnn 32' "
        "&& rbserve profile --model 'kept/dnn 32' --dataset ml-100k "
    )
    assert serve_command(kept, "onnx-fp32") is None
    assert why_absent(kept) == "there is no artefact at kept/dnn 32"


def test_a_run_file_of_before_has_the_path_in_its_command_line() -> None:
    old = run(artifact="", settings={}, command=["rbserve", "profile", "--model", "out/mine", "-d", "t"])
    assert model_option(old) == "out/mine"
    unknown = run(artifact="", settings={}, config={**config_to_dict(ROW.config), "dim": 32})
    assert serve_command(unknown, "onnx-fp32") is None
    assert why_absent(unknown) == "the run file does not say where its artefact is"


def test_a_model_of_no_row_says_that_no_command_makes_it() -> None:
    strange = command(run(model="text-mine", artifact="out/text-mine"))
    assert strange.startswith("rbserve profile --model out/text-mine ")
    assert strange.endswith("# needs the artefact at out/text-mine: text-mine is no row of this version, and no "
                            "command trains it again")  # fmt: skip
    assert shlex.split(strange, comments=True)[-1] != "again"


def test_a_warm_start_cannot_be_trained_again_from_its_run_file() -> None:
    strange = command(run(continued="continued from dnn 0123456789ab, 2 new items"))
    assert strange.startswith("rbserve profile --model dnn ")
    assert (
        "# needs the artefact that was measured: continued from dnn 0123456789ab, 2 new items, and "
        in strange
    )


def test_an_endpoints_address_is_needed_to_ask_it_again() -> None:
    row = find_model("zeroshot-gpt-3.5")
    there = msgspec.structs.replace(
        run(model=row.name, artifact=row.name),
        config={**config_to_dict(row.config), "api_base": "http://here/v1", "key_from": "MINE"},
        settings=dataclasses.asdict(Settings(**row.training)),
    )
    assert "--api-base http://here/v1 --set key_from=MINE" in command(there)


def test_random_weights_are_drawn_again_and_not_trained() -> None:
    drawn = run(random=True, artifact="out/dnn", config={**config_to_dict(ROW.config), "dim": 32})
    assert " --weights random --out out/dnn && " in command(drawn)


def test_how_long_calls_were_timed_is_part_of_the_command() -> None:
    plan = msgspec.structs.replace(run().plan, seconds=2.5)
    assert " --seconds 2.5 " in command(run(plan=plan))
    assert "--seconds" not in command(run())


def test_a_profile_says_where_its_artefact_was_and_how_it_was_trained(
    trained: Artifact, planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = msgspec.structs.replace(default_plan(), processes=1, runs=3, slates=[1])
    made = profile(trained, planted, plan, ["onnx-fp32"])
    assert made.artifact == str(trained.path)
    assert made.settings == trained.manifest.training.settings
    assert serve_command(made, "onnx-fp32") is not None
    assert why_absent(msgspec.structs.replace(made, model_digest="other")) == (
        f"the artefact at {trained.path} was made anew, or its items changed, since this run"
    )
    monkeypatch.setenv("RBSERVE_HOME", str(tmp_path))
    place = tmp_path / "artifacts" / planted.name / "dnn"
    shutil.copytree(trained.path, place)
    assert option_of(open_artifact(place)) == "dnn"
