"""The same raw files prepared by one process and by a Ray cluster: seconds, memory of each worker, and the same bytes.

    python tests/benchmarks/big_raw.py generate hm RAW --rows 100000000 --users 5000000 --items 1000000
    python tests/benchmarks/partitions.py RAW HOME --workers 4 --partitions 16

The cluster is on this machine: `--workers` of one processor and `--memory-gb` each, on `--nodes`. Both runs are timed
one after the other on the same machine, whose processors all workers share: read the ratio beside the number of cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

GB = 1 << 30
RBSERVE = (sys.executable, "-m", "rbserve")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("raw", type=Path)
    parser.add_argument("home", type=Path)
    parser.add_argument("--layout", default="hm")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--nodes", type=int, default=4, help="that the workers are divided among")
    parser.add_argument("--partitions", type=int, default=16)
    parser.add_argument("--memory-gb", type=int, default=2, help="of a worker, and of the one process")
    parser.add_argument("--only", choices=("process", "cluster"))
    options = parser.parse_args()
    results = {}
    if options.only != "cluster":
        results["process"] = prepare(options, "alone", ())
        print(json.dumps(results), file=sys.stderr, flush=True)
    if options.only != "process":
        results["cluster"] = on_cluster(options)
    prints = {result["fingerprint"] for result in results.values()}
    print(json.dumps({"cores": os.cpu_count(), "same": len(prints) == 1, **results}, indent=1))
    return 0 if len(prints) == 1 else 1


def prepare(options: argparse.Namespace, name: str, extra: tuple[str, ...]) -> dict[str, Any]:
    """Seconds, processor seconds and the largest memory of the process, and the fingerprint that it made."""
    path = options.home / "data" / name
    shutil.rmtree(path, ignore_errors=True)
    command = [
        *RBSERVE, "prepare", options.layout, "--name", name, "--raw", str(options.raw.absolute()), "--max-rows", "0",
        "--memory-limit", f"{options.memory_gb}GB", *extra,
    ]  # fmt: skip
    started = time.monotonic()
    process = subprocess.Popen(command, env=os.environ | {"RBSERVE_HOME": str(options.home)})
    workers: dict[int, float] = {}
    peak = processor_s = 0.0
    while process.poll() is None:
        peak = max(peak, _memory(process.pid))
        processor_s = max(processor_s, _processor_s(process.pid))
        if extra:
            for worker in psutil.process_iter(["name", "cmdline"]):
                if any("ray::" in word for word in worker.info["cmdline"] or ()):
                    workers[worker.pid] = max(workers.get(worker.pid, 0.0), _memory(worker.pid))
        time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    result = {
        "seconds": round(time.monotonic() - started, 1),
        "processor_s": round(processor_s, 1),
        "peak_mb": round(peak / 1e6),
        "fingerprint": json.loads((path / "manifest.json").read_text())["fingerprint"],
    }
    return result | (
        {"workers_peak_mb": sorted(round(size / 1e6) for size in workers.values())} if extra else {}
    )


def on_cluster(options: argparse.Namespace) -> dict[str, Any]:
    """The figures of `prepare --engine ray` on a cluster of this machine."""
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    per_node = options.workers // options.nodes
    try:
        for _ in range(options.nodes):
            cluster.add_node(
                num_cpus=per_node,
                memory=per_node * options.memory_gb * GB,
                object_store_memory=GB // 8,
                include_dashboard=False,
            )
        cluster.wait_for_nodes()
        extra = ("--engine", "ray", "--partitions", str(options.partitions), "--address", cluster.address)
        return prepare(options, "partitioned", extra)
    finally:
        cluster.shutdown()


def _memory(pid: int) -> float:
    """The resident memory of a process now, without what it shares with others, such as Ray's objects."""
    try:
        memory = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0.0
    return float(memory.rss - memory.shared)


def _processor_s(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


if __name__ == "__main__":
    sys.exit(main())
