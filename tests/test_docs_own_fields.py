"""The walk of docs/own-data.md runs as it stands, on an invented shop."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
from entry_point import rbserve
from shell_sessions import ROOT, sections
from small_shop import made_shop

from rbserve.data.artifact import open_artifact
from rbserve.train.datasets.feature_options import KINDS

PAGE = ROOT / "docs" / "own-data.md"


def _commands() -> list[list[str]]:
    text = sections(PAGE)["The walk"].replace("\\\n", " ")
    return [line.partition("#")[0].split()[1:] for line in text.splitlines() if line.startswith("rbserve")]


def test_the_walk_runs_as_it_stands(tmp_path: Path) -> None:
    made_shop(people=40, goods=30, each=10).write(tmp_path)
    for words in _commands():
        small = ["--epochs", "1", "--set", "hidden=8", "--set", "dim=4"] if words[0] == "train" else []
        rbserve(*words, *small, home=tmp_path)
    artifact = open_artifact(tmp_path / "artifacts" / "shop" / "dnn")
    assert [spec.name for spec in artifact.layout.fields] == ["price", "tags", "brand", "country", "hour"]
    assert "onnx-fp32" in artifact.manifest.variants
    columns = pq.read_schema(tmp_path / "tables" / "test.parquet").names
    assert {"price", "country", "hour", "likes"} <= {*columns}


def test_the_page_has_every_kind_of_feature() -> None:
    text = sections(PAGE)["Kinds"]
    assert all(f"| `{kind}` |" in text for kind in KINDS)
