"""Which precision to serve, on measurements whose answer is known; and the words of every refusal."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from artificial import sampled
from hypothesis import given
from hypothesis import strategies as st
from old_int8 import with_old_int8

from rbserve.core.errors import RbserveError, UsageError
from rbserve.data.artifact import Artifact, open_artifact, write_manifest
from rbserve.data.dataset import Dataset
from rbserve.home.target import resolve
from rbserve.pipeline import choosing, profiling, serving
from rbserve.pipeline.catalogue import retire_items
from rbserve.profilers.choose.choice import (
    FEWEST_USERS,
    ROWS,
    Choice,
    Loss,
    Question,
    absent,
    check_tolerance,
    choose,
    default_slate,
    known_run,
    plan_of,
    question_of,
    suffices,
    unusable,
    users_needed,
)
from rbserve.profilers.measure.test_rows import open_test_rows as rows_of
from rbserve.runs.measurement import Measurement, Predictions
from rbserve.runs.run_file import write_measurement

TIMES = {"torch-fp32": 9.0, "onnx-fp32": 5.0, "onnx-int8": 2.0}
QUESTION = Question("a" * 64, "key", 100, 1, 0.002, "")


def judged(times: dict[str, float] = TIMES, users: int = 400, **noise: float) -> Measurement:
    """Artificial figures: the scores of a variant are the reference's with so much noise."""
    made = sampled("gdcn", times, users=users, runs=20, processes=2)
    rng = np.random.default_rng(3)
    scores = {
        one: (np.array(said) + noise.get(one.replace("-", "_"), 0.0) * rng.normal(size=len(said))).tolist()
        for one, said in made.predictions.scores.items()
    }
    return msgspec.structs.replace(made, predictions=msgspec.structs.replace(made.predictions, scores=scores))


def by_variant(choice: Choice) -> dict[str, str | None]:
    return {one.variant: one.refused for one in choice.options}


def ranked(ranks: list[int]) -> Measurement:
    """Two variants that rank the next items of as many users alike; 0 is in neither list."""
    said = {"torch-fp32": ranks, "onnx-int8": ranks}
    users = list(range(len(ranks)))
    run = sampled("gdcn", {one: TIMES[one] for one in said}, runs=20, processes=2)
    predictions = Predictions(users, [], {}, targets=users, ranks=said, depth=50)
    return msgspec.structs.replace(run, task="seqrec", predictions=predictions)


def test_lists_that_hold_hardly_any_next_item_do_not_show_that_two_variants_rank_alike() -> None:
    for hits in (0, FEWEST_USERS - 1):
        refused = by_variant(choose(ranked([1] * hits + [0] * 500), QUESTION, {}))
        assert refused["onnx-int8"] == (
            f"INCONCLUSIVE: {hits} test users whose next item it lists are too few, 30 the fewest to judge by"
        )
    alike = choose(ranked([1] * FEWEST_USERS + [0] * 500), QUESTION, {})
    assert by_variant(alike)["onnx-int8"] is None


def test_the_fastest_is_chosen_where_all_scores_are_the_same() -> None:
    choice = choose(judged(), QUESTION, {})
    assert (choice.reference, choice.chosen) == ("torch-fp32", "onnx-int8")
    assert all(one.loss is not None and one.loss.same for one in choice.options)


def test_a_fast_variant_that_loses_too_much_is_refused_for_the_next() -> None:
    choice = choose(judged(onnx_fp32=1e-7, onnx_int8=0.3), QUESTION, {})
    assert choice.chosen == "onnx-fp32"
    assert by_variant(choice)["onnx-int8"] == "loses more AUC than 0.002"


def test_a_slower_variant_is_not_chosen_for_being_smaller() -> None:
    assert choose(judged({**TIMES, "onnx-int8": 6.0}), QUESTION, {}).chosen == "onnx-fp32"


def test_a_loss_within_the_tolerance_that_is_asked_for_is_allowed() -> None:
    wide = msgspec.structs.replace(QUESTION, tolerance=0.2)
    assert choose(judged(onnx_int8=0.3), wide, {}).chosen == "onnx-int8"


def test_without_torch_the_exported_fp32_is_the_reference() -> None:
    run = judged({"onnx-fp32": 5.0, "onnx-int8": 2.0})
    choice = choose(run, QUESTION, {"torch-fp32": "torch is not installed"})
    assert (choice.reference, choice.chosen) == ("onnx-fp32", "onnx-int8")
    assert by_variant(choice)["torch-fp32"] == "torch is not installed"


def test_without_any_fp32_nothing_can_be_chosen() -> None:
    with pytest.raises(UsageError, match=r"no fp32 variant here .*onnx-fp32: is missing"):
        choose(judged({"onnx-int8": 2.0}), QUESTION, {"onnx-fp32": "is missing"})


def test_a_refused_variant_is_never_chosen_though_it_was_measured() -> None:
    choice = choose(judged(), QUESTION, {"onnx-int8": "is damaged"})
    assert choice.chosen == "onnx-fp32"
    assert [one.variant for one in choice.options].count("onnx-int8") == 1


def test_what_the_users_cannot_tell_is_refused_with_how_many_might() -> None:
    refused = by_variant(choose(judged(users=60, onnx_int8=0.03), QUESTION, {}))["onnx-int8"]
    assert refused is not None
    assert refused.startswith("INCONCLUSIVE: 60 test users do not tell its loss from 0.002, about ")


def test_a_handful_of_users_settles_nothing_but_equal_scores() -> None:
    choice = choose(judged(users=FEWEST_USERS - 1, onnx_int8=1e-9), QUESTION, {})
    assert choice.chosen == "onnx-fp32"
    refused = by_variant(choice)["onnx-int8"]
    assert refused == f"INCONCLUSIVE: 29 test users are too few, {FEWEST_USERS} the fewest to judge by"


def test_rows_of_one_label_define_no_auc() -> None:
    run = judged(onnx_int8=0.01)
    rows = msgspec.structs.replace(run.predictions, labels=[0] * len(run.predictions.labels))
    choice = choose(msgspec.structs.replace(run, predictions=rows), QUESTION, {})
    assert by_variant(choice)["onnx-int8"] == "AUC is not defined on these test rows"


def test_of_random_weights_only_fp32_is_allowed() -> None:
    run = msgspec.structs.replace(judged(), random=True, predictions=Predictions([], [], {}))
    choice = choose(run, QUESTION, {})
    assert choice.chosen == "onnx-fp32"
    assert by_variant(choice)["onnx-int8"] == "the weights are random: there is no accuracy to hold"


def test_rankings_are_held_by_their_ndcg() -> None:
    run = sampled("sasrec-3l", TIMES, slate=10, task="seqrec")
    rng = np.random.default_rng(5)
    ranks = rng.integers(0, 30, 500)
    worse = np.where(rng.random(500) < 0.3, 0, ranks)
    said = {"torch-fp32": ranks.tolist(), "onnx-fp32": ranks.tolist(), "onnx-int8": worse.tolist()}
    rows = Predictions([*range(500)], [], {}, [0] * 500, said, 50)
    choice = choose(
        msgspec.structs.replace(run, predictions=rows), msgspec.structs.replace(QUESTION, slate=10), {}
    )
    assert (choice.metric, choice.chosen) == ("ndcg@10", "onnx-fp32")
    assert by_variant(choice)["onnx-int8"] == "loses more NDCG@10 than 0.002"


@given(
    times=st.lists(st.floats(0.1, 50), min_size=3, max_size=3),
    noise=st.lists(st.sampled_from([0.0, 1e-6, 0.003, 0.01, 0.03, 0.3]), min_size=2, max_size=2),
    tolerance=st.sampled_from([0.0, 0.0005, 0.002, 0.02]),
    users=st.sampled_from([10, 40, 300]),
)
def test_the_choice_is_the_fastest_of_those_whose_loss_is_certainly_within_the_tolerance(
    times: list[float], noise: list[float], tolerance: float, users: int
) -> None:
    run = judged(dict(zip(TIMES, times, strict=True)), users=users, onnx_fp32=noise[0], onnx_int8=noise[1])
    choice = choose(run, msgspec.structs.replace(QUESTION, tolerance=tolerance), {})
    options = {one.variant: one for one in choice.options}
    p50 = {one.variant: one.latency_ms.p50 for one in run.results}
    held = {
        name for name, one in options.items()
        if one.loss and (one.loss.same or (one.loss.ci95[1] <= tolerance and users >= FEWEST_USERS))
    }  # fmt: skip
    assert {name for name, one in options.items() if one.refused is None} == held
    assert choice.chosen == min(held, key=lambda name: p50[name])


def test_users_needed_fall_with_the_gap_and_are_more_than_there_were() -> None:
    assert users_needed(Loss(0.001, (-0.001, 0.003), 100), 0.002) == 400
    assert users_needed(Loss(0.0, (-0.003, 0.003), 100), 0.002) == 230
    assert users_needed(Loss(0.002, (0.0, 0.004), 100), 0.002) == 10_000_000


# ---- Profiles that are there ----


def test_a_profile_answers_for_its_own_artefact_machine_and_size_alone() -> None:
    run = judged()
    assert suffices(run, QUESTION, [*TIMES], 400)
    for change in ({"artifact_digest": "b" * 64}, {"comparability_key": "other"}, {"slate": 20}):
        assert not suffices(run, msgspec.structs.replace(QUESTION, **change), [*TIMES], 400), change
    assert not suffices(run, QUESTION, [*TIMES, "onnx-int4"], 400)
    assert not suffices(run, QUESTION, [*TIMES], 401)


def test_a_disturbed_or_unjudged_profile_does_not_answer() -> None:
    run = judged()
    disturbed = [msgspec.structs.replace(one, inconclusive=["load by others"]) for one in run.results]
    assert not suffices(msgspec.structs.replace(run, results=disturbed), QUESTION, [*TIMES], 400)
    unjudged = msgspec.structs.replace(run.predictions, scores={})
    assert not suffices(msgspec.structs.replace(run, predictions=unjudged), QUESTION, [*TIMES], 400)


def test_the_newest_profile_that_answers_is_taken(tmp_path: Path) -> None:
    older, newer = (msgspec.structs.replace(judged(), id=name) for name in ("1-aaaaaaaa", "2-aaaaaaaa"))
    elsewhere = msgspec.structs.replace(judged(), id="3-aaaaaaaa", comparability_key="other")
    files = [write_measurement(tmp_path, one) for one in (elsewhere, newer, older)]
    found = known_run(files, QUESTION, [*TIMES], 400)
    assert found is not None
    assert found.id == newer.id
    assert known_run(files, QUESTION, [*TIMES], 401) is None


# ---- A real artefact ----


def test_the_question_changes_with_all_that_the_answer_depends_on(
    trained: Artifact, measured: Measurement, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(**changes: Any) -> str:
        facts = {"runs": tmp_path, "slate": None, "threads": 1, "tolerance": 0.002} | changes
        return question_of(trained, **facts).file_name

    first = asked()
    assert asked() == first
    assert asked(slate=100) == first  # what is asked of a pair-wise model unless told otherwise
    others = [asked(slate=5), asked(threads=2), asked(tolerance=0.01)]
    write_measurement(tmp_path, measured)
    others.append(asked())
    monkeypatch.setattr("rbserve.machine.environment.library_versions", lambda: {"rbserve": "999"})
    others.append(asked())
    assert len({first, *others}) == 6


@pytest.mark.parametrize("tolerance", [-0.1, 1.0, float("nan")])
def test_a_tolerance_that_is_none_is_refused(tolerance: float) -> None:
    with pytest.raises(UsageError, match="--tolerance must be 0 or more and below 1, not"):
        check_tolerance(tolerance)


def test_a_short_profile_keeps_to_its_rows_and_whole_users(trained: Artifact, planted: Dataset) -> None:
    plan = plan_of(trained, planted, QUESTION)
    rows = rows_of(trained, planted, plan)
    assert 0 < len(rows) <= 1.1 * ROWS
    assert (plan.slates, plan.scope, default_slate(trained)) == ([100], "forward", 100)


def test_what_is_missing_or_damaged_is_named(trained: Artifact, tmp_path: Path) -> None:
    assert absent(trained) == {}
    assert unusable(trained, trained.variants) == {}
    moved = Artifact(tmp_path, trained.manifest)
    reasons = unusable(moved, ["onnx-int8"])
    assert "is missing" in reasons["onnx-int8"]
    bare = Artifact(tmp_path, msgspec.structs.replace(trained.manifest, variants={}))
    assert absent(bare)["onnx-int8"].startswith("not exported: rbserve export --model ")


def test_an_int8_whose_accuracy_depends_on_the_slate_is_no_option(trained: Artifact, tmp_path: Path) -> None:
    """It is judged on other slates than are served; the reason says how to make the file anew."""
    old = with_old_int8(trained, tmp_path / "old")
    assert absent(old)["onnx-int8"] == (
        "its scores depend on what else is in the slate (exported by version 0.1): "
        f"rbserve export --model {old.path} --precision int8 makes it anew"
    )


def test_an_endpoint_has_nothing_to_choose_from(trained: Artifact, tmp_path: Path) -> None:
    elsewhere = Artifact(trained.path, msgspec.structs.replace(trained.manifest, config_kind="endpoint"))
    with pytest.raises(UsageError, match="answered by an endpoint"):
        question_of(elsewhere, tmp_path, None, 1, 0.002)


def test_a_profile_that_answers_is_taken_and_the_answer_kept(
    trained: Artifact,
    planted: Dataset,
    measured: Measurement,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(planted.path, tmp_path / "data" / "planted")
    settled = [msgspec.structs.replace(one, inconclusive=[]) for one in measured.results]
    write_measurement(tmp_path / "runs", msgspec.structs.replace(measured, results=settled))
    monkeypatch.setenv("RBSERVE_HOME", str(tmp_path))
    monkeypatch.setattr("rbserve.profilers.measure.harness.profile", None)  # nothing is to be measured

    def chosen() -> Choice:
        return choosing.choose_variant(resolve(trained.path), slate=8, tolerance=0.05)[1]

    first = chosen()
    assert (first.run, first.measured) == (measured.id, False)
    (kept,) = (tmp_path / "choices").iterdir()
    monkeypatch.setattr("rbserve.pipeline.choosing._choose", None)  # nor is anything judged again
    assert chosen() == first
    monkeypatch.undo()
    monkeypatch.setenv("RBSERVE_HOME", str(tmp_path))
    kept.write_text("{}")
    assert chosen() == first
    assert "is not a choice" in capsys.readouterr().err


def test_a_variant_that_dies_while_it_is_measured_is_refused_with_what_it_said(
    trained: Artifact,
    planted: Dataset,
    measured: Measurement,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(planted.path, tmp_path / "data" / "planted")
    lost = [one for one in measured.results if one.variant != "onnx-int8"]
    run = msgspec.structs.replace(measured, results=lost, failed={"onnx-int8": "it ran out of memory"})
    monkeypatch.setenv("RBSERVE_HOME", str(tmp_path))
    monkeypatch.setattr("rbserve.profilers.measure.harness.profile", lambda *_: run)
    slate = measured.results[0].slate
    _, choice = choosing.choose_variant(resolve(trained.path), slate=slate)
    assert choice.measured
    assert by_variant(choice)["onnx-int8"] == "it ran out of memory"
    assert choice.chosen != "onnx-int8"


def test_an_answer_that_cannot_be_kept_is_an_answer(
    trained: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "choices").write_text("where a folder should be")
    monkeypatch.setenv("RBSERVE_HOME", str(tmp_path))
    question = question_of(trained, tmp_path, 8, 1, 0.05)
    answer = Choice(
        1, question, "dnn", "planted", "ctr", "auc", "a-run", True, "onnx-fp32", "onnx-fp32", []
    )  # fmt: skip
    monkeypatch.setattr("rbserve.pipeline.choosing._choose", lambda *_: answer)
    assert choosing.choose_variant(resolve(trained.path), slate=8, tolerance=0.05)[1] == answer
    assert "warning: the choice of a variant is not kept: " in capsys.readouterr().err


def test_a_run_that_could_not_be_written_is_not_measured(
    trained: Artifact, planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(planted.path, tmp_path / "data" / "planted")
    (tmp_path / "runs").write_text("where a folder should be")
    monkeypatch.setenv("RBSERVE_HOME", str(tmp_path))
    monkeypatch.setattr(
        "rbserve.profilers.measure.harness.profile", lambda *_: pytest.fail("it was measured")
    )
    with pytest.raises(RbserveError, match="runs"):
        profiling.profile(resolve(trained.path), variants=["onnx-fp32"])


def test_a_profile_that_is_inconclusive_is_shown_as_that_and_one_of_other_variants_is_named(
    trained: Artifact, measured: Measurement, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RBSERVE_HOME", str(tmp_path))
    assert serving.measured(tmp_path / "runs", trained, "onnx-fp32").note == "not profiled"
    disturbed = [msgspec.structs.replace(result, inconclusive=["a reason"]) for result in measured.results]
    write_measurement(tmp_path / "runs", msgspec.structs.replace(measured, results=disturbed))
    shown = serving.measured(tmp_path / "runs", trained, "onnx-fp32")
    assert shown.note is None
    assert [figure.inconclusive for figure in shown.measured] == [["a reason"]] * len(shown.measured) != []
    other = serving.measured(tmp_path / "runs", trained, "onnx-int4")
    assert other.measured == []
    assert other.note == f"not profiled here: run {measured.id} is of other variants"


def test_a_profile_of_before_the_artefact_was_changed_is_told(
    trained: Artifact, measured: Measurement, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RBSERVE_HOME", str(tmp_path))
    write_measurement(tmp_path / "runs", measured)
    copy = Path(shutil.copytree(trained.path, tmp_path / trained.name))
    retire_items(open_artifact(copy), [trained.items.ids[0]])
    assert serving.measured(tmp_path / "runs", open_artifact(copy), "onnx-fp32").note == (
        f"profiled before the artefact was changed; rbserve profile --model {copy} measures it anew"
    )
    write_manifest(copy, msgspec.structs.replace(open_artifact(copy).manifest, name="another"))
    assert serving.measured(tmp_path / "runs", open_artifact(copy), "onnx-fp32").note == "not profiled"
