"""Wall time of a small matrix on a Ray cluster of this machine, with 1 and 2 builds at a time.

    python tests/benchmarks/ray_jobs.py --rounds 3

A node of two processors builds and measures five rows on planted data. The two settings take turns within one run, so
that the ratio stands although times do not. Latency cells have the node to themselves in both: only builds can overlap.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

from local_cluster import local_cluster  # noqa: E402
from ray_kills import make_template  # noqa: E402

WORDS = ("bench", "--models", "dnn,pnn,deepfm,dcn,gdcn", "--datasets", "planted", "--variants", "onnx-fp32",
         "--processes", "1", "--runs", "5", "--slates", "2", "--epochs", "2", "--patience", "2")  # fmt: skip


def main() -> None:
    """Prints a line for each bench, and the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder, local_cluster() as cluster:
        template = make_template(Path(folder))
        cluster.add("a", num_cpus=2)
        for turn in range(rounds):
            for jobs in (1, 2) if turn % 2 == 0 else (2, 1):
                home = Path(folder) / "home"
                shutil.rmtree(home, ignore_errors=True)
                shutil.copytree(template, home)
                seconds[jobs].append(_bench(home, cluster.address, jobs))
                print(f"round {turn + 1}, --jobs {jobs}: {seconds[jobs][-1]:.0f} s", flush=True)
    one, two = median(seconds[1]), median(seconds[2])
    print(
        f"median of {rounds}: {one:.0f} s with one build at a time, {two:.0f} s with two: {one / two:.2f} times"
    )


def _bench(home: Path, address: str, jobs: int) -> float:
    started = time.monotonic()
    words = [*WORDS, "--engine", "ray", "--address", address, "--jobs", str(jobs)]
    environment = os.environ | {"RBSERVE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-m", "rbserve", *words], check=True, capture_output=True, env=environment
    )
    return time.monotonic() - started


if __name__ == "__main__":
    main()
