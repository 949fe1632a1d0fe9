"""A log in the layout of Criteo's `train.txt`, of any length, whose labels depend on its fields; and its measurement.

    python tests/benchmarks/criteo_like.py generate train.txt --rows 10000000
    python tests/benchmarks/criteo_like.py measure -- rbserve prepare criteo --raw train.txt
    python tests/benchmarks/criteo_like.py serving ARTEFACT_DIRECTORY

Categories have the numbers of values of Criteo's seven days, drawn log-uniformly: few are frequent, most occur once.
The log-odds of a click are a sum of effects of some values, of one pair of values, and of two numbers; `generate`
prints the AUC of the true probabilities, which no model can surpass by more than chance. `measure` prints time and
peak memory of a command with its children. `serving` times an artefact's scorer and the bare ONNX session by turns.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

SIZES = (
    1_460, 583, 10_131_227, 2_202_608, 305, 24, 12_517, 633, 3, 93_145, 5_683, 8_351_593, 3_194, 27, 14_992,
    5_461_306, 10, 5_652, 2_173, 4, 7_046_547, 18, 15, 286_181, 105, 142_572,
)  # fmt: skip
WEIGHTS = {0: 0.5, 4: 0.5, 5: 0.4, 8: 0.3, 12: 0.6, 13: 0.5, 16: 0.5, 19: 0.3, 22: 0.4}
"""The deviation of the log-odds between the values of a category."""
PAIR, PAIR_WEIGHT = (13, 16), 0.6
MISSING_NUMBERS = (0.45, 0.0, 0.2, 0.2, 0.03, 0.2, 0.04, 0.0, 0.04, 0.45, 0.04, 0.76, 0.2)
MISSING_CODES = {
    2: 0.03,
    3: 0.03,
    11: 0.03,
    15: 0.03,
    18: 0.44,
    19: 0.44,
    20: 0.03,
    21: 0.76,
    24: 0.44,
    25: 0.44,
}
PIECE = 1 << 18
HEXADECIMAL = np.array([f"{number:04x}" for number in range(1 << 16)], "S4")
PERIOD_S = 0.2

Numbers = NDArray[np.float64]
Ranks = NDArray[np.int64]


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """64 bits that look random for each number, the same for equal ones (the end of splitmix64)."""
    bits = (values + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    return bits ^ (bits >> np.uint64(31))


def effects(values: NDArray[np.uint64]) -> Numbers:
    """A number of mean 0 and deviation 1 for each value, the same for equal ones."""
    uniform = (mixed(values) >> np.uint64(11)).astype(np.float64) / (1 << 53)
    return (uniform - 0.5) * np.sqrt(12)


def keys(column: int, ranks: Ranks) -> NDArray[np.uint64]:
    """A number for each value of each column."""
    return ranks.astype(np.uint64) + np.uint64((column + 1) << 40)


def written(column: int, ranks: Ranks) -> pa.Array:
    """The eight hexadecimal digits of each value, null where it is missing (rank -1)."""
    digest = (mixed(keys(column, np.maximum(ranks, 0))) >> np.uint64(32)).astype(np.uint32)
    digits = HEXADECIMAL[digest.view(np.uint16).reshape(-1, 2)].view("S8").ravel()
    return pa.array(digits, mask=ranks < 0).cast(pa.string())


def piece(rng: np.random.Generator, rows: int) -> tuple[list[pa.Array], NDArray[np.int8], Numbers]:
    """Rows of the file: label and columns, and the true probability of a click."""
    ranks = [np.floor(size ** rng.random(rows)).astype(np.int64) - 1 for size in SIZES]
    numbers = [np.floor(rng.lognormal(1.5, 1.5, rows)) - (2 if column == 1 else 0) for column in range(13)]
    odds = -1.4 + 0.3 * np.log1p(np.abs(numbers[5])) - 0.3 * np.log1p(np.abs(numbers[1]))
    for column, weight in WEIGHTS.items():
        odds += weight * effects(keys(column, ranks[column]))
    first, second = (ranks[column] for column in PAIR)
    odds += PAIR_WEIGHT * effects(keys(99, first * 1_000 + second))
    chances = 1 / (1 + np.exp(-odds))
    labels = (rng.random(rows) < chances).astype(np.int8)
    columns = [
        pa.array(values.astype(np.int64), mask=rng.random(rows) < missing)
        for values, missing in zip(numbers, MISSING_NUMBERS, strict=True)
    ]
    for column, own in enumerate(ranks):
        gaps = rng.random(rows) < MISSING_CODES.get(column, 0.0)
        columns.append(written(column, np.where(gaps, -1, own)))
    return [pa.array(labels), *columns], labels, chances


def generate(path: Path, rows: int, seed: int) -> None:
    """Writes the file, and prints the AUC of the true probabilities of its last piece."""
    from rbserve.stats.pairwise import auc

    rng = np.random.default_rng(seed)
    names = [f"c{column}" for column in range(40)]
    options = pa.csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    schema = pa.schema([("c0", pa.int8()), *((name, pa.int64()) for name in names[1:14]),
                        *((name, pa.string()) for name in names[14:])])  # fmt: skip
    with pa.csv.CSVWriter(path, schema, write_options=options) as file:
        for begin in range(0, rows, PIECE):
            columns, labels, chances = piece(rng, min(PIECE, rows - begin))
            file.write_table(pa.table(columns, schema=schema))
    print(f"{rows:,} rows, {path.stat().st_size / 1e9:.2f} GB, AUC of the truth {auc(labels, chances):.4f}")


def measure(command: Sequence[str]) -> int:
    """Runs a command; prints its seconds, processor seconds and the peak of its and its children's memory."""
    begin, peak, used = time.monotonic(), 0, 0.0
    process = subprocess.Popen(command)
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            family = [watched, *watched.children(recursive=True)]
            peak = max(peak, sum(member.memory_info().rss for member in family))
            times = watched.cpu_times()
            used = times.user + times.system
        except psutil.NoSuchProcess:
            break
        time.sleep(PERIOD_S)
    print(f"{time.monotonic() - begin:.0f} s, processor {used:.0f} s, peak RSS {peak / 2**20:,.0f} MiB")
    return process.wait()


def serving(folder: Path, rounds: int, slates: Sequence[int]) -> None:
    """Prints the p50 of the scorer and of the bare ONNX session, in processor time, timed by turns."""
    import onnxruntime as ort

    from rbserve.core.requests import CANDIDATES, HISTORY
    from rbserve.data.artifact import open_artifact
    from rbserve.data.dataset import open_dataset
    from rbserve.features.opening import open_maker
    from rbserve.home.paths import dataset_path
    from rbserve.profilers.timing.requests import draw
    from rbserve.runtimes.opening import open_scorer

    artifact = open_artifact(folder)
    scorer, maker = open_scorer(artifact, "onnx-fp32"), open_maker(artifact)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(folder / "onnx" / "fp32.onnx", options)
    inputs = [value.name for value in session.get_inputs()]
    test = open_dataset(dataset_path(artifact.manifest.dataset.name)).ctr("test")
    for slate in slates:
        drawn = draw(np.random.default_rng(0), test, slate, 1)
        times: dict[str, list[int]] = {"scorer": [], "session": []}
        for turn in range(rounds):
            row = turn % len(drawn.histories)
            request = {
                HISTORY: drawn.histories[row],
                CANDIDATES: drawn.candidates[row],
                **drawn.extras_of(row),
            }
            tensors = {name: {**request, **maker.tensors(request)}[name] for name in inputs}
            times["scorer"].append(timed(partial(scorer.score, request)))
            times["session"].append(timed(partial(session.run, None, tensors)))
        own, bare = (np.median(times[name]) / 1e3 for name in ("scorer", "session"))
        print(f"slate {slate}: scorer {own:.0f} us, session {bare:.0f} us, ratio {own / bare:.2f}")


def timed(call: Callable[[], object]) -> int:
    """Processor nanoseconds of this thread for a call."""
    begin = time.thread_time_ns()
    call()
    return time.thread_time_ns() - begin


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    made = verbs.add_parser("generate")
    made.add_argument("path", type=Path)
    made.add_argument("--rows", type=int, default=10_000_000)
    made.add_argument("--seed", type=int, default=2024)
    verbs.add_parser("measure").add_argument("command", nargs=argparse.REMAINDER)
    served = verbs.add_parser("serving")
    served.add_argument("folder", type=Path)
    served.add_argument("--rounds", type=int, default=1_000)
    served.add_argument("--slates", type=int, nargs="+", default=[1, 100])
    given = parser.parse_args()
    if given.verb == "generate":
        generate(given.path, given.rows, given.seed)
    elif given.verb == "measure":
        sys.exit(measure([part for part in given.command if part != "--"]))
    else:
        serving(given.folder, given.rounds, given.slates)


if __name__ == "__main__":
    main()
