"""The project's own gate: its scoring and ranking hot paths held against themselves, or against another checkout's.

    python tests/self_gate.py                                  # make gate: seconds; part of `make check`
    python tests/self_gate.py ../main/.venv/bin/python         # make gate BASE_PYTHON=...: this code against main's

Two tiny models are trained on planted data, then `rbserve check` judges them with a bound of 50%. A machine too noisy
to tell (INCONCLUSIVE) is no failure; a gate that passes a head of three times the latency is one.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from small import train_small

from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset
from rbserve.exporters.export import export
from rbserve.models.configs import SasRecConfig
from rbserve.models.zoo import find_model
from rbserve.profilers.gate.config import GateConfig, Tolerance
from rbserve.profilers.gate.findings import headline
from rbserve.profilers.gate.rounds import check
from rbserve.profilers.gate.sides import Pair, Scope
from rbserve.profilers.gate.verdict import EXIT_CODES, Verdict
from rbserve.train.datasets.sources import prepare
from rbserve.train.fit import train
from rbserve.train.fitting.loop import Settings

SLOWED = (sys.executable, str(Path(__file__).parent / "benchmarks/gate_curve.py"), "worker", "slowed")
CONFIG = """\
budget = 90.0
max_rounds = 6
runs = 100
seconds = 0.05
[tolerance]
p50 = 0.5
peak_rss = 0.5
"""


def main() -> None:
    """Exits 1 when a hot path is slower by more than half, or when the gate does not see one that is."""
    base_python = sys.argv[1:2]
    with tempfile.TemporaryDirectory(prefix="rbserve-gate-") as folder:
        home = Path(folder)
        dataset = prepare("synthetic", home / "data/synthetic")
        models = home / "artifacts/synthetic"
        dnn = export(train_small("dnn", dataset, models / "dnn", epochs=1), dataset, ["fp32"])
        spec = dataclasses.replace(find_model("sasrec-3l"), config=SasRecConfig(layers=1, dim=8, heads=2))
        settings = Settings(batch=256, micro_batch=256, epochs=1)
        export(train(spec, dataset, models / "sasrec-3l", settings), dataset, ["fp32"])
        (home / "rbserve-check.toml").write_text(CONFIG)
        words = [sys.executable, "-m", "rbserve", "check", "--base", str(models), "--head", str(models)]
        if base_python:
            words += ["--base-python", str(Path(base_python[0]).absolute())]
        code = subprocess.run(words, cwd=home, env=os.environ | {"RBSERVE_HOME": str(home)}).returncode
        if code not in (EXIT_CODES[Verdict.PASS], EXIT_CODES[Verdict.INCONCLUSIVE]):
            sys.exit(f"error: the gate of the hot paths ended with exit code {code}")
        sees_a_slow_head(dnn, dataset)


def sees_a_slow_head(dnn: Artifact, dataset: Dataset) -> None:
    """A gate that cannot fail is none: a head of three times the latency must not pass."""
    config = GateConfig(budget=90, max_rounds=6, runs=100, seconds=0.05, tolerance=Tolerance(p50=0.5))
    pair = Pair("dnn, slowed", dnn, dnn, base_worker=(*SLOWED, "0"), head_worker=(*SLOWED, "2"))
    suite = check([pair], lambda _: dataset, config, Scope(["onnx-fp32"], [1], metrics=["p50"])).suite
    print(f"a head that spins: {headline(suite)}", file=sys.stderr)
    if suite.verdict not in (Verdict.REGRESSED, Verdict.INCONCLUSIVE):
        sys.exit("error: the gate passed a head of three times the latency")


if __name__ == "__main__":
    main()
