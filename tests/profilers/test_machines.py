"""Kinds of machines side by side: a block of columns each, and figures of different keys in different sections.

The figures are made up and mean nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
from artificial import measurement, result

from rbserve.profilers.compare.machines import machine_tables
from rbserve.profilers.compare.sections import sections
from rbserve.profilers.report.machine_tables import machine_cells, machine_heads, machine_notes
from rbserve.profilers.report.render import collect, render
from rbserve.runs.measurement import Measurement, comparability_key


def _run(model: str, kind: str, ms: float, **changes: Any) -> Measurement:
    run = measurement(model, [result("onnx-fp32", 1, ms, 0.7)], id=f"{model}-{kind}", **changes)
    environment = msgspec.structs.replace(run.environment, kind=kind)
    key = comparability_key(environment, run.plan.threads, run.dataset_fingerprint)
    return msgspec.structs.replace(run, environment=environment, comparability_key=key)


RUNS = [_run("dnn", "small", 2.0), _run("dnn", "large", 1.0), _run("gdcn", "large", 3.0)]


def test_a_table_has_a_block_of_columns_for_each_kind() -> None:
    (table,) = machine_tables(sections(RUNS))
    assert table.kinds == ["large", "small"]
    assert len({*table.comparability_keys}) == 2
    assert machine_heads(table)[3:] == [
        "large: p50 ms [95%]", "large: p99 ms", "small: p50 ms [95%]", "small: p99 ms",
    ]  # fmt: skip
    cells = {row.name: machine_cells(row) for row in table.rows}
    assert cells["dnn"][3].startswith("1")
    assert cells["dnn"][5].startswith("2")
    assert cells["gdcn"][5:] == ["–", "–"]
    assert any(table.comparability_keys[0] in note for note in machine_notes(table))


def test_one_kind_of_machine_makes_no_table() -> None:
    assert machine_tables(sections([_run("dnn", "small", 2.0), _run("gdcn", "small", 2.0)])) == []
    assert machine_tables(sections([_run("dnn", "", 2.0)])) == []


def test_a_kind_without_a_name_has_the_key_of_before() -> None:
    run = measurement("dnn", [result("onnx-fp32", 1, 1.0, 0.7)])
    unnamed = msgspec.structs.replace(run.environment, kind="")
    assert comparability_key(unnamed, 1, "x") == comparability_key(run.environment, 1, "x")
    assert comparability_key(msgspec.structs.replace(unnamed, kind="k"), 1, "x") != comparability_key(
        unnamed, 1, "x"
    )


def test_a_report_takes_the_newest_run_of_each_kind(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    for run in RUNS:
        (folder / f"{run.id}.json").write_bytes(msgspec.json.encode(run))
    taken = collect(folder)
    assert sorted(run.id for run in taken) == ["dnn-large", "dnn-small", "gdcn-large"]
    report = render(taken, tmp_path / "report")
    assert "latency on each kind of machine" in (report / "table.md").read_text()
    assert json.loads((report / "report.json").read_text())["machines"][0]["kinds"] == ["large", "small"]
    assert 'id="machines"' in (report / "report.html").read_text()
