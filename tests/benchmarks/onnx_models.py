"""The five models of docs/onnx-models.md under the gate, each slowed by 10% and each with 0.002 less AUC: one table.

    python tests/benchmarks/onnx_models.py                       # a quarter of an hour on two quiet cores
    python tests/benchmarks/onnx_models.py --models LightGBM,Texts --json injected.json

Runs the lines of the page in a temporary folder and prints what the gate found, in Markdown. The exit code is 1 where
a change was not called REGRESSED. A `rbserve-check.toml` in the working directory counts, as for `rbserve check`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from shell_sessions import ROOT, Shell, sections, shell_lines

from rbserve.machine.environment import environment
from rbserve.profilers.gate.config import CONFIG_FILE

PAGE = sections(ROOT / "docs" / "onnx-models.md")
MODELS = ["PyTorch", "scikit-learn", "LightGBM", "XGBoost", "Texts"]
JUDGES = ("rbserve check", "python docs/examples/onnx/slowed_head.py")
SKIPPED = ("rbserve profile", "rbserve serve", "python docs/examples/onnx/ask.py", "kill %1")
JUDGED = (0, 3, 4)
"""Exit codes of PASS, REGRESSED and INCONCLUSIVE."""
COLUMNS = ("model", "figure", "base", "head", "change [bounds]", "verdict", "rounds", "seconds")


def judged(section: str, folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of the gate over the model of a section, each with the rounds and seconds of its check."""
    with Shell(folder) as shell:
        for words in shell_lines(PAGE[section]):
            begin = " ".join(words[:2])
            if begin in JUDGES:
                suite = json.loads(shell.run([*words, "--json"], *JUDGED).stdout)
                for line in suite["lines"]:
                    yield line | {"section": section, "seconds": suite["seconds"], "of": suite["rounds"]}
            elif begin not in SKIPPED:
                shell.run(words)


def row(line: dict[str, Any]) -> str:
    """A row of the table."""
    if line["metric"] == "auc":
        figure, unit, change = "AUC", ".4f", "{:+.4f}"
    else:
        figure, unit, change = f"p50 ms, slate {line['slate']}", ".4g", "{:+.1%}"
    missing = line["change"] is None
    bounds = "–" if missing else " ".join(
        [change.format(line["change"]), f"[{_bound(change, line['low'])}, {_bound(change, line['high'])}]"]
    )  # fmt: skip
    sides = [f"{line[side]:{unit}}" if line[side] is not None else "–" for side in ("base", "head")]
    cells = [
        line["section"],
        figure,
        *sides,
        bounds,
        line["verdict"],
        str(line["of"]),
        f"{line['seconds']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _bound(form: str, value: float | None) -> str:
    return "–" if value is None else form.format(value)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(MODELS), help="sections of the page, comma-separated")
    parser.add_argument("--json", type=Path, help="file for what was found, as data")
    given = parser.parse_args()
    lines = []
    print(f"| {' | '.join(COLUMNS)} |\n|---|---|--:|--:|--:|---|--:|--:|", flush=True)
    with tempfile.TemporaryDirectory(prefix="rbserve-onnx-models-") as name:
        folder = Path(name)
        if Path(CONFIG_FILE).is_file():
            shutil.copy(CONFIG_FILE, folder)
        with Shell(folder) as shell:
            for words in shell_lines(PAGE[""]):
                shell.run(words)
        for section in given.models.split(","):
            for line in judged(section, folder):
                lines.append(line)
                print(row(line), flush=True)
    machine = environment()
    print(f"\nOn {machine.cpu}, {machine.cores} cores.")
    if given.json:
        given.json.write_text(json.dumps(lines, indent=1))
    sys.exit(any(line["verdict"] != "REGRESSED" for line in lines))


if __name__ == "__main__":
    main()
