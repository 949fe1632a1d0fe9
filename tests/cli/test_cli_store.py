"""The verbs `push` and `pull`, and a model of the store behind --model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from entry_point import rbserve

from rbserve.data.artifact import Artifact


@pytest.fixture
def homes(trained: Artifact, tmp_path: Path) -> tuple[Path, Path]:
    """A home with dnn trained on `beauty`, and an empty one."""
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(trained.path, here / "artifacts" / "beauty" / "dnn")
    there.mkdir()
    return here, there


def test_a_model_goes_from_machine_to_machine(homes: tuple[Path, Path], tmp_path: Path) -> None:
    here, there = homes
    store = f"file://{tmp_path}/store"
    pushed = rbserve("push", "dnn", "--dataset", "beauty", "--store", store, home=here).stdout
    assert pushed.startswith("artifacts/beauty/dnn: ")
    assert "files pushed" in pushed
    again = rbserve("push", "dnn", home=here, RBSERVE_STORE=store).stdout
    assert again.endswith("nothing to move\n")
    (pulled,) = json.loads(rbserve("pull", "dnn", "--json", home=there, RBSERVE_STORE=store).stdout)
    assert pulled["moved_files"] > 1
    assert (there / "artifacts/beauty/dnn/manifest.json").is_file()


def test_a_model_of_the_store_is_what_model_names(homes: tuple[Path, Path], tmp_path: Path) -> None:
    here, there = homes
    store = f"file://{tmp_path}/store"
    rbserve("push", "dnn", home=here, RBSERVE_STORE=store)
    missing = rbserve(
        "verify", "--model", "store://beauty/dnn", "--url", "http://127.0.0.1:1", home=there, check=2,
        RBSERVE_STORE=store,
    )  # fmt: skip
    assert "pulled artifacts/beauty/dnn" in missing.stderr
    assert (there / "artifacts/beauty/dnn/manifest.json").is_file()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("push", "dnn"), "error: no store is named: RBSERVE_STORE is not set"),
        (("pull", "dnn", "--store", "file:///nowhere/store"), "error: unknown name: dnn"),
        (
            ("pull", "--store", "nonsense://x"),
            "error: 'nonsense://x' is no store: Protocol not known: nonsense",
        ),
        (("serve", "--model", "store://beauty/dnn"), "error: no store is named"),
        (("serve", "--model", "store://dnn"), "error: store://dnn is no model in a store"),
        (("prepare", "hm", "--partitions", "2"), "error: --partitions and --address are for --engine ray"),
        (("prepare", "hm", "--engine", "ray", "--partitions", "0"), "error: "),
        (("prepare", "criteo", "--engine", "ray", "--raw", "."), "error: Criteo"),
    ],
)
def test_what_cannot_be_is_one_line_and_a_hint(
    words: tuple[str, ...], line: str, homes: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RBSERVE_STORE", raising=False)
    done = rbserve(*words, home=homes[0], check=2)
    error, hint = done.stderr.strip().splitlines()
    assert error.startswith(line)
    assert hint.startswith("hint: ")
