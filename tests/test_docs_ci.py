"""docs/ci.md says what the command line does: its options, exit codes and defaults."""

from __future__ import annotations

import re
from pathlib import Path

from entry_point import rbserve

from rbserve.profilers.gate.config import GateConfig
from rbserve.profilers.gate.verdict import EXIT_CODES, looks

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "ci.md").read_text()


def test_every_option_in_the_examples_exists(tmp_path: Path) -> None:
    known = set(
        re.findall(r"--[a-z][a-z-]+", rbserve("check", "--help", home=tmp_path, COLUMNS="200").stdout)
    )
    shown = {
        option
        for line in TEXT.splitlines()
        if "rbserve check --" in line
        for option in re.findall(
            r"(?<= )--[a-z][a-z-]+", line.partition("#")[0].replace("pytest --benchmark-json", "")
        )
    }
    assert {"--base", "--head", "--baseline", "--markdown", "--junit", "--init"} <= shown
    assert shown <= known


def test_the_exit_codes_are_those_of_the_gate() -> None:
    rows = dict(re.findall(r"^\| ([A-Z-]+) \| (\d+) \|", TEXT, re.MULTILINE))
    assert rows == {verdict.value: str(code) for verdict, code in EXIT_CODES.items()}
    assert f"allow_failure:\n    exit_codes: [{rows['INCONCLUSIVE']}]" in TEXT
    assert f"|| [ $? -eq {rows['INCONCLUSIVE']} ]" in TEXT
    order = ", ".join(verdict.value for verdict in EXIT_CODES)
    assert f"A suite's verdict is its worst: {order}" in TEXT


def test_the_defaults_are_those_of_the_configuration() -> None:
    config = GateConfig()
    assert f"`--budget` ({config.budget:g} seconds)" in TEXT
    assert f"`alpha` ({config.alpha:.0%})" in TEXT
    assert f"`beta` ({config.beta:.0%})" in TEXT
    assert f"(`process_cv`, {config.process_cv:.1%})" in TEXT
    of = config.tolerance
    assert f"(p50 {of.p50:.0%}, peak memory {of.peak_rss:.0%}, file size {of.file_size:.0%}, " in TEXT
    assert f"AUC and nDCG@10 {of.auc:g})" in TEXT
    assert f"a tolerance of its own ({of.p50_baseline:.0%})" in TEXT
    first = ", ".join(map(str, looks(config.max_rounds)[:6]))
    assert f"After {first}, … {config.max_rounds} rounds" in TEXT
