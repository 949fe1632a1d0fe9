"""Memory and start of `rbserve serve` with very many items, with Python's own item table and with mapped columns.

    python tests/benchmarks/serve_items.py --items 1e7 --dim 16 --workers 4

A small `dnn` on the planted data of the tests gets `items` rows: drawn vectors behind those of its graph, and ids and
texts in its table. It is served twice: as artefacts were before (table in Parquet alone, vectors inside the graph's
file) and with memory-mapped columns and vectors. Both answer the same requests. Memory is summed over the workers, from
/proc/PID/smaps_rollup: RSS counts a shared page in each process, PSS divides it among them, Anonymous is private.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rbserve.core.files import digest
from rbserve.data.artifact import ITEMS, Artifact, with_mapped_items, write_manifest
from rbserve.data.dataset import ItemTable, write_items


def grown(small: Artifact, folder: Path, count: int, mapped: bool) -> Artifact:
    """The artefact with `count` items, and the vectors in a file beside its graph where they are to be `mapped`."""
    from rbserve.exporters import graph
    from rbserve.exporters.item_table import append_rows

    path = Path(shutil.copytree(small.path, folder / small.name))
    known = small.items
    ids = [*known.ids, *(f"item-{row}" for row in range(len(known), count))]
    texts = [*known.texts, *(f"a title of some words, number {row}" for row in range(len(known), count))]
    write_items(path / ITEMS, ItemTable(ids, texts))
    record = small.manifest.variants["onnx-fp32"]
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((count - len(known), small.manifest.config["dim"]), np.float32)
    graph.LARGEST = 1 << 27 if mapped else 1 << 31
    append_rows(small, "fp32", small.path / record.file, path / record.file, vectors)
    data = [f"{record.file}.data"] if (path / f"{record.file}.data").exists() else []
    record = msgspec.structs.replace(record, data_files=data)
    names = [ITEMS, record.file, *data]
    manifest = msgspec.structs.replace(
        small.manifest, variants={"onnx-fp32": record},
        files=small.manifest.files | {name: digest(path / name) for name in names},
    )  # fmt: skip
    write_manifest(path, manifest)
    made = Artifact(path, manifest)
    return with_mapped_items(made) if mapped else made


def memory_mb(process: psutil.Process) -> dict[str, float]:
    """RSS, PSS and private memory of a process."""
    names = {"Rss:": "rss", "Pss:": "pss", "Anonymous:": "anonymous"}
    lines = (line.split() for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:])
    return {names[line[0]]: int(line[1]) / 1024 for line in lines if line[0] in names}


def served(artifact: Artifact, workers: int, count: int, requests: int = 200) -> dict[str, Any]:
    """Starts a server, asks it, and measures its workers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["serve", "--model", str(artifact.path), "--port", str(port), "--workers", str(workers)]
    started = time.perf_counter()
    server = subprocess.Popen([sys.executable, "-m", "rbserve", *command], stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        for line in server.stderr:
            if f":{port}" in line:
                break
        ready_s = time.perf_counter() - started
        rng, spent = np.random.default_rng(1), []
        for _ in range(requests):
            rows = rng.integers(1000, count, 120)
            body = {
                "history": [f"item-{row}" for row in rows[:20]],
                "candidates": [f"item-{row}" for row in rows[20:]],
            }
            began = time.perf_counter()
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/v1/score",
                json.dumps(body).encode(),
                {"content-type": "application/json"},
            )
            with urllib.request.urlopen(request) as reply:
                assert len(json.loads(reply.read())["scores"]) == 100
            spent.append((time.perf_counter() - began) * 1000)
        processes = psutil.Process(server.pid).children(recursive=True) or [psutil.Process(server.pid)]
        figures = [memory_mb(process) for process in processes]
        big = [figure for figure in figures if figure["rss"] > 50]
        sums = {
            f"{name}_mb": round(sum(figure[name] for figure in big)) for name in ("rss", "pss", "anonymous")
        }
        return {
            "workers": len(big),
            "ready_s": round(ready_s, 1),
            **sums,
            "p50_ms": round(float(np.median(spent)), 2),
        }
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=float, default=1e6)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--workers", default="1,4", help="of the server with mapped columns")
    parser.add_argument(
        "--before", default="1,4", help="of the server with Python's own table: 4 GB each at 10^7 ids"
    )
    chosen = parser.parse_args()
    from small import train_small
    from small_dataset import build

    from rbserve.exporters.export import export
    from rbserve.train.datasets import synthetic
    from rbserve.train.protocol.options import Protocol
    from rbserve.train.protocol.tally import Tally

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        tally = Tally()
        events, items = synthetic.read(synthetic.Planted(users=200, items=150), tally.dropped)
        data = build(Path(folder) / "planted", "synthetic", events, items, Protocol(), tally)
        small = export(
            train_small("dnn", data, Path(folder) / "dnn", epochs=1, further={"dim": str(chosen.dim)}),
            data,
            ["fp32"],
        )
        for mapped in (False, True):
            artifact = grown(small, Path(folder) / f"mapped-{mapped}", int(chosen.items), mapped)
            for workers in map(int, (chosen.workers if mapped else chosen.before).split(",")):
                row = {
                    "items": int(chosen.items),
                    "mapped": mapped,
                    **served(artifact, workers, int(chosen.items)),
                }
                print(json.dumps(row), flush=True)
            shutil.rmtree(artifact.path.parent)


if __name__ == "__main__":
    main()
