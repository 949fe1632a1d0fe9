"""Indexes over catalogues of 10^5, 10^6 and 10^7 items: build time, file, memory, latency and recall, beside a scan.

    python tests/benchmarks/index_sizes.py --artifact artifacts/microlens/hstu --data data/microlens \
        --items 1e5,1e6 --kinds scan,scan-int8,hnsw,ivf,ivf-int8,ivf-pq --out sizes.json

The item vectors are drawn with the spread of a trained ranking's: k-means clusters of its item vectors with their
sizes and centres, one covariance within clusters, and the norm and the bias of one of the cluster's items. Users are
the trained model's own test users. `--dim 64` keeps the directions in which the item vectors are largest. Each index is
built and searched in a process of its own, on one thread; a search is the whole of what `rbserve` does for a user
behind the encoder (index, scores in fp32, order). Memory is that of /proc/self/smaps_rollup: Anonymous is private, the
rest of RSS are pages of mapped files, which processes share. The effort of each index is the smallest that finds 99% of
the ten best items of other users.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbserve.exporters.item_index import tuned, write_index
from rbserve.runtimes.faiss import IndexedScores
from rbserve.runtimes.item_index import (
    KINDS,
    IndexKind,
    IndexSettings,
    ItemIndex,
    import_faiss,
    load_index,
)
from rbserve.runtimes.vector_table import BIASES, VECTORS, TableSettings, VectorTable, open_table

CLUSTERS, PIECE = 256, 1 << 18
TUNED, TRUE_USERS, TRUE_K = 100, 300, 100
RECALL = 0.99
ENOUGH_S = 60.0
SCANS = {"scan": IndexKind("Flat"), "scan-int8": IndexKind("SQ8", over=2, least=40, multiple=16)}


# ---- Generated items ----


def fit_spread(artifact: Path, data: Path, dim: int, out: Path) -> None:
    """Writes item vectors, biases and test users' vectors of a trained ranking, with their clusters, to an .npz."""
    import torch

    from rbserve.data.artifact import open_artifact
    from rbserve.data.dataset import open_dataset
    from rbserve.runtimes.evaluate import by_length
    from rbserve.runtimes.torch import load_model

    torch.set_num_threads(1)
    model = load_model(open_artifact(artifact)).folded()
    items, split = model.items.detach().numpy(), open_dataset(data).seqrec("test")
    biases = np.zeros(len(items), np.float32) if model.biases is None else model.biases.detach().numpy()
    rng = np.random.default_rng(0)
    chosen = split.take(np.sort(rng.permutation(len(split))[: TUNED + TRUE_USERS + 600])).histories
    with torch.inference_mode():
        longest = model.config.max_history
        batches = [together[:, -longest:].astype(np.int64) for _, together in by_length(chosen, 256)]
        states = np.concatenate(
            [model.transformer.last(torch.from_numpy(batch)).numpy() for batch in batches]
        )
    if dim < items.shape[1]:
        _, _, directions = np.linalg.svd(items, full_matrices=False)
        items, states = items @ directions[:dim].T, states @ directions[:dim].T
    faiss = import_faiss()
    means = faiss.Kmeans(items.shape[1], min(CLUSTERS, len(items) // 39), niter=15, seed=1)
    means.train(np.ascontiguousarray(items))
    labels = means.index.search(np.ascontiguousarray(items), 1)[1][:, 0]
    within = np.cov((items - means.centroids[labels]).T) + 1e-9 * np.eye(items.shape[1])
    np.savez(
        out, norms=np.linalg.norm(items, axis=1), biases=biases, states=rng.permutation(states), labels=labels,
        centres=means.centroids, root=np.linalg.cholesky(within).astype(np.float32),
    )  # fmt: skip


def generate(spread: Path, count: int, folder: Path) -> None:
    """Writes a table of `count` vectors with that spread, piece by piece."""
    from rbserve.data.columns import ColumnWriter
    from rbserve.exporters.item_index import bias_scale

    known, rng = np.load(spread), np.random.default_rng(count)
    (folder / VECTORS).parent.mkdir(parents=True, exist_ok=True)
    vectors, biases = ColumnWriter(folder / VECTORS, np.float32), ColumnWriter(folder / BIASES, np.float32)
    dim, scale = known["centres"].shape[1], 1.0
    norms, labels, centres, root = (known[name] for name in ("norms", "labels", "centres", "root"))
    for begin in range(0, count, PIECE):
        like = rng.integers(0, len(norms), min(PIECE, count - begin))
        drawn = centres[labels[like]] + rng.standard_normal((len(like), dim), np.float32) @ root.T
        drawn *= (norms[like] / np.linalg.norm(drawn, axis=1))[:, None]
        vectors.append(drawn)
        biases.append(known["biases"][like])
        scale = bias_scale(drawn, known["biases"][like]) if begin == 0 else scale
    vectors.close()
    biases.close()
    (folder / "index/table.json").write_text(
        json.dumps({"dim": dim, "bias_scale": scale, "neighbours": None})
    )
    _ = TableSettings(dim, scale)


def exact_lists(table: VectorTable, states: NDArray[np.float32]) -> NDArray[np.int64]:
    """The TRUE_K best rows of each of Q users, best first, by products in fp32 of one block after another."""
    best = np.empty((len(states), 0), np.int64)
    scores = np.empty((len(states), 0), np.float32)
    for begin in range(0, len(table), 1 << 16):
        rows = slice(begin, begin + (1 << 16))
        block = states @ table.vectors[rows].T
        if table.biases is not None:
            block += table.biases[rows]
        places = np.argpartition(-block, min(TRUE_K, block.shape[1] - 1), axis=1)[:, :TRUE_K]
        best = np.concatenate([best, begin + places], axis=1)
        scores = np.concatenate([scores, np.take_along_axis(block, places, 1)], axis=1)
        order = np.argsort(-scores, axis=1)[:, :TRUE_K]
        best, scores = np.take_along_axis(best, order, 1), np.take_along_axis(scores, order, 1)
    return best


# ---- One process: build, search ----


def memory_mb() -> dict[str, float]:
    """RSS, PSS and private anonymous memory of this process in MB, and its peak."""
    names = {"Rss:": "rss", "Pss:": "pss", "Anonymous:": "anonymous"}
    lines = [line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]]
    figures = {names[line[0]]: int(line[1]) / 1024 for line in lines if line[0] in names}
    status = Path("/proc/self/status").read_text().split("VmHWM:")[1]
    return figures | {"peak": int(status.split()[0]) / 1024}


def build(folder: Path, kind: str) -> dict[str, Any]:
    """Builds an index over the table in a folder, and writes it beside the table."""
    table, path = open_table(folder), folder / f"index/{kind}.faiss"
    started = time.perf_counter()
    write_index(path, kind, table)
    return {"build_s": time.perf_counter() - started, "file_mb": path.stat().st_size / 2**20, **memory_mb()}


class States:
    """An encoder that returns a given user's vector."""

    state: NDArray[np.float32]

    def run(self, names: object, arrays: object) -> list[NDArray[np.float32]]:
        del names, arrays
        return [self.state[None]]


def search(folder: Path, spread: Path, kind: str) -> dict[str, Any]:
    """Loads an index, finds its effort, and times lists of 10 and 100 items, a user a call."""
    states, known = np.load(spread)["states"], np.load(folder / "exact.npy")
    before = memory_mb()
    started = time.perf_counter()
    index, table, encoder = load_index(folder / f"index/{kind}.faiss"), open_table(folder), States()
    loaded_s, loaded = time.perf_counter() - started, memory_mb()
    history = np.zeros((1, 1), np.int32)

    def lists(users: range, k: int, settings: IndexSettings) -> tuple[list[float], NDArray[np.int32]]:
        scores = IndexedScores(encoder, table, ItemIndex(index, settings))  # type: ignore[arg-type]
        times, found, ends = [], [], time.perf_counter() + ENOUGH_S
        for user in users:
            encoder.state = states[user]
            began = time.perf_counter()
            items, _ = scores(history, k)
            times.append((time.perf_counter() - began) * 1000)
            found.append(items[0])
            if time.perf_counter() > ends and len(times) >= 50:
                break
        return times, np.array(found)

    def recall(found: NDArray[np.int32], users: range, k: int) -> float:
        pairs = zip(found, known[users.start :], strict=False)
        return float(np.mean([np.isin(best[:k], own).mean() for own, best in pairs]))

    def share(settings: IndexSettings) -> float:
        return recall(lists(tuning, 10, settings)[1], tuning, 10)

    tuning, judged, settings = range(TUNED), range(TUNED, TUNED + TRUE_USERS), IndexSettings(kind, 1)
    if kind not in SCANS:
        settings = tuned(kind, share, RECALL, 1 << 40)
    figures: dict[str, Any] = {"load_s": loaded_s, "effort": settings.effort, "breadth": settings.breadth}
    for k in (10, 100):
        lists(range(20), k, settings)  # warm-up
        times, found = lists(judged, k, settings)
        figures[f"p50_ms@{k}"], figures[f"p99_ms@{k}"] = np.percentile(times, [50, 99]).tolist()
        figures[f"recall@{k}"], figures["users"] = recall(found, judged, k), len(found)
    after = memory_mb()
    own = {f"{name}_mb": after[name] - before[name] for name in ("rss", "anonymous")}
    return figures | own | {"loaded_rss_mb": loaded["rss"] - before["rss"]}


# ---- All of it ----


def step(name: str, folder: Path, *arguments: object) -> Any:
    """The figures of a step in a process of its own."""
    command = [sys.executable, __file__, "--step", name, str(folder), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def measure(spread: Path, count: int, kinds: Sequence[str], folder: Path) -> list[dict[str, Any]]:
    """The figures of each kind of index over `count` generated items."""
    if not (folder / "exact.npy").exists():
        generate(spread, count, folder)
        states = np.load(spread)["states"][: TUNED + TRUE_USERS]
        np.save(folder / "exact.npy", exact_lists(open_table(folder), states))
    figures = []
    for kind in kinds:
        made = step("build", folder, kind)
        row = {"items": count, "kind": kind, "build_s": made["build_s"], "file_mb": made["file_mb"],
               "build_peak_mb": made["peak"], **step("search", folder, spread, kind)}  # fmt: skip
        print(
            json.dumps({name: round(v, 3) if isinstance(v, float) else v for name, v in row.items()}),
            flush=True,
        )
        figures.append(row)
    return figures


def main() -> None:
    KINDS.update(SCANS)
    if sys.argv[1:2] == ["--step"]:
        name, folder, *rest = sys.argv[2:]
        done = (
            build(Path(folder), rest[0]) if name == "build" else search(Path(folder), Path(rest[0]), rest[1])
        )
        print(json.dumps(done))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--items", default="1e5,1e6")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--kinds", default=",".join([*SCANS, *KINDS]))
    parser.add_argument("--folder", type=Path, default=Path("index-sizes"))
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    spread, figures = chosen.folder / "spread.npz", []
    if not spread.exists():
        fit_spread(chosen.artifact, chosen.data, chosen.dim, spread)
    for count in [int(float(text)) for text in chosen.items.split(",")]:
        figures += measure(spread, count, chosen.kinds.split(","), chosen.folder / str(count))
        if chosen.out:
            chosen.out.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
