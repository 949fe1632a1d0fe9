"""A bench on a Ray cluster, killed at random times: does every cell end once, with the results of an undisturbed bench?

    python tests/benchmarks/ray_kills.py run --kills 10 --out build/ray-kills   # continues where it was stopped
    python tests/benchmarks/ray_kills.py table --out build/ray-kills

Four kinds of kills, all by SIGKILL while cells are at work on two nodes of this machine:

    node      the raylet of a node, as a loss of power; the node is started again after the bench has gone on
    worker    the process of Ray in which a cell's task runs
    command   the command `rbserve bench`; it is started again
    cell      the process of a cell: that cell has failed, as on one machine; the command is started again at its end

A bench goes through several kills, and a new one begins until all are done. Then is checked: one outcome for
each cell, none failed, one run file for each latency cell, and test scores and weights equal to those of the bench that
nobody disturbed. A check that does not hold is a line of the table.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import psutil

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

from local_cluster import LocalCluster, local_cluster  # noqa: E402

from rbserve.bench.journal import Outcome  # noqa: E402
from rbserve.data.artifact import open_artifact  # noqa: E402

KINDS = ("node", "worker", "command", "cell")
MODELS, DATASET = ("dnn", "pnn"), "planted"
WORDS = ("bench", "--models", ",".join(MODELS), "--datasets", DATASET, "--variants", "onnx-fp32", "--processes", "1",
         "--runs", "5", "--slates", "2", "--epochs", "2", "--patience", "2")  # fmt: skip
LONGEST_S = 1800.0


class Killed(msgspec.Struct, frozen=True):
    """A bench with its kills: how many there were, what was at work then, its seconds, and what did not hold."""

    kind: str
    kills: int
    at: list[str]
    seconds: float
    broken: list[str]


def main() -> None:
    """Runs what is missing of the kills, or prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=("run", "table"))
    parser.add_argument("--kills", type=int, default=10, help="kills of each kind (default 10)")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE.parents[2] / "build" / "ray-kills")
    given = parser.parse_args()
    if given.verb == "run":
        run(given.out, given.kinds.split(","), given.kills, random.Random(given.seed + time.time_ns()))
    print(table(_read(given.out)))


def run(out: Path, kinds: list[str], kills: int, drawn: random.Random) -> None:
    """Kills until there are enough of each kind; a file is written after each bench."""
    out.mkdir(parents=True, exist_ok=True)
    template = make_template(out)
    with local_cluster("a", "b") as cluster:
        undisturbed = _undisturbed(out, template, cluster)
        while left := {kind: count for kind in kinds if (count := kills - _done(out, kind)) > 0}:
            for kind, most in left.items():
                home = out / "home"
                shutil.rmtree(home, ignore_errors=True)
                shutil.copytree(template, home)
                trial = _trial(kind, home, cluster, drawn, most, undisturbed)
                print(trial, flush=True)
                if trial.kills or trial.broken:
                    (out / f"{kind}-{time.time_ns()}.json").write_bytes(msgspec.json.encode(trial))


def _done(out: Path, kind: str) -> int:
    """How many kills of a kind there were."""
    return sum(trial.kills for trial in _read(out) if trial.kind == kind)


def table(trials: list[Killed]) -> str:
    """The trials in Markdown, a row for each kind."""
    lines = [
        "| killed | kills | benches | at work when killed | cells or files wrong |",
        "|---|---|---|---|---|",
    ]
    for kind in KINDS:
        of_kind = [trial for trial in trials if trial.kind == kind]
        if of_kind:
            at = sorted({what for trial in of_kind for what in trial.at})
            broken = [text for trial in of_kind for text in trial.broken]
            lines.append(
                f"| {kind} | {sum(trial.kills for trial in of_kind)} | {len(of_kind)} | {', '.join(at)} | "
                f"{'; '.join(broken) or 'none'} |"
            )
    return "\n".join(lines)


def _trial(
    kind: str, home: Path, cluster: LocalCluster, drawn: random.Random, most: int, undisturbed: dict[str, Any]
) -> Killed:
    started, at, broken = time.monotonic(), list[str](), list[str]()
    process = _bench(home, cluster)
    next_kill = time.monotonic() + drawn.uniform(1, 30)
    while time.monotonic() - started < LONGEST_S:
        if process.poll() is not None:
            if process.returncode == 0 or not at or kind != "cell":
                break
            process = _bench(home, cluster)  # the cell that was killed has failed: the same command does it
        if time.monotonic() > next_kill and len(at) < most:
            struck = _strike(kind, home, cluster, process, drawn)
            if struck:
                at.append(struck)
                next_kill = time.monotonic() + drawn.uniform(5, 60)
                if kind == "command":
                    process.wait()
                    process = _bench(home, cluster)
        time.sleep(0.1)
    else:
        process.kill()
        broken.append(f"not done after {LONGEST_S:.0f} s")
    if process.wait() and not broken:
        broken.append(f"exit {process.returncode}: {(home / 'stderr').read_text()[-300:]}")
    for name in {"a", "b"} - {*cluster.names}:
        cluster.add(name)
    return Killed(kind, len(at), at, time.monotonic() - started, broken + _wrong(home, undisturbed))


def _strike(
    kind: str, home: Path, cluster: LocalCluster, process: subprocess.Popen[bytes], drawn: random.Random
) -> str:
    """Kills something that is at work; what it did then, empty where nothing was at work."""
    for name in {"a", "b"} - {*cluster.names}:  # the node of an earlier kill is back
        cluster.add(name)
    workers = _workers(home)
    if not workers:
        return ""
    worker = drawn.choice(workers)
    try:
        parents, doing = worker.parents(), _doing(home)
        if kind == "node":
            names = [name for name in cluster.names if cluster.raylet(name) in parents]
            if not names:
                return ""
            cluster.kill(names[0])
        else:
            {"worker": parents[0], "cell": worker, "command": psutil.Process(process.pid)}[kind].kill()
    except psutil.NoSuchProcess:
        return ""
    return doing


def _doing(home: Path) -> str:
    """The step of the cell that began last."""
    logs = sorted((home / "bench/matrix/logs").iterdir(), key=lambda file: file.stat().st_mtime)
    return logs[-1].name.split(".")[0] if logs else "start"


def _wrong(home: Path, undisturbed: dict[str, Any]) -> list[str]:
    """What of a finished bench is lost, twice, failed, or other than in the undisturbed one."""
    found = _results(home)
    wrong = [f"{name} is missing" for name in undisturbed if name not in found]
    wrong += [f"{name} differs" for name in undisturbed if name in found and found[name] != undisturbed[name]]
    runs = {file.name for file in (home / "runs").glob("*.json")}
    named = [outcome.run for outcome in _outcomes(home).values() if outcome.cell.step == "profile"]
    if sorted(named) != sorted(runs):
        wrong.append(f"{len(runs)} run files for {len(named)} latency cells")
    left = [str(path.name) for path in (home / "artifacts").rglob(".*.scratch")]
    return wrong + [f"left behind: {name}" for name in left]


def _results(home: Path) -> dict[str, Any]:
    """By cell what it made: the fingerprint of the data, digests of weights, test scores."""
    results: dict[str, Any] = {}
    for name, outcome in _outcomes(home).items():
        if not outcome.ok or outcome.failed:
            continue
        cell = outcome.cell
        made: list[Any] = [outcome.fingerprint]
        if cell.step == "build":
            made.append(open_artifact(home / "artifacts" / cell.dataset / cell.name).model_digest)
        if cell.step == "profile":
            run = json.loads((home / "runs" / outcome.run).read_text())
            made.append(run["predictions"]["scores"])
        results[name] = made
    return results


def _outcomes(home: Path) -> dict[str, Outcome]:
    files = [*(home / "bench/matrix/journal").glob("*.json")]
    outcomes = [msgspec.json.decode(file.read_bytes(), type=Outcome) for file in files]
    return {outcome.cell.id: outcome for outcome in outcomes}


def _undisturbed(out: Path, template: Path, cluster: LocalCluster) -> dict[str, Any]:
    home = out / "undisturbed"
    if not (home / "done").is_file():
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(template, home)
        if _bench(home, cluster).wait():
            raise SystemExit((home / "stderr").read_text())
        (home / "done").touch()
    return _results(home)


def make_template(out: Path) -> Path:
    """A home with planted data, small enough that a training takes seconds."""
    from small_dataset import build

    from rbserve.train.datasets import synthetic
    from rbserve.train.protocol.options import Protocol
    from rbserve.train.protocol.tally import Tally

    template = out / "template"
    if not (template / "data" / DATASET / "manifest.json").is_file():
        (template / "data").mkdir(parents=True, exist_ok=True)
        tally = Tally()
        shape = synthetic.Planted(users=300, items=80, topics=4, events_per_user=40)
        events, items = synthetic.read(shape, tally.dropped)
        build(template / "data" / DATASET, "synthetic", events, items, Protocol(rows_per_label=3), tally)
    return template


def _bench(home: Path, cluster: LocalCluster) -> subprocess.Popen[bytes]:
    with (home / "stderr").open("ab") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "rbserve", *WORDS, "--engine", "ray", "--address", cluster.address],
            stdout=subprocess.DEVNULL,
            stderr=said,
            env=os.environ | {"RBSERVE_HOME": str(home), "OMP_NUM_THREADS": "1"},
            cwd=home,
        )


def _workers(home: Path) -> list[psutil.Process]:
    """The processes of cells of this home."""
    workers = []
    for process in psutil.process_iter(["cmdline"]):
        if "rbserve.bench.worker" in (process.info["cmdline"] or []):
            try:
                if process.environ().get("RBSERVE_HOME") == str(home):
                    workers.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
    return workers


def _read(out: Path) -> list[Killed]:
    return [
        msgspec.json.decode(file.read_bytes(), type=Killed)
        for kind in KINDS
        for file in sorted(out.glob(f"{kind}-*.json"))
    ]


if __name__ == "__main__":
    main()
