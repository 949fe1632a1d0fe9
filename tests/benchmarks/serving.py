"""What the server promises, tried on a real one over loopback: overhead, load beyond what it can do, restarts, losses.

    python tests/benchmarks/serving.py                     # make serving; every part, 20 minutes of two cores
    python tests/benchmarks/serving.py overhead --beside fastapi=PYTHON,litserve=PYTHON
    python tests/benchmarks/serving.py reloads --times 50

The server has one core, what asks it the other. MODEL (--model, of --dataset) is what `rbserve serve --model` takes;
`language` serves --language instead. PYTHON is the interpreter of an environment that has another server
(other_servers.py), for the comparison alone. Each part prints a line of Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from rbserve.client import Client, address_of, request_bytes
from rbserve.core.requests import slate_request
from rbserve.core.tasks import CTR
from rbserve.data.artifact import Artifact
from rbserve.home.target import resolve
from rbserve.pipeline import data, training
from rbserve.profilers.client.load import Load, run_load
from rbserve.profilers.client.plan import LoadPlan
from rbserve.profilers.client.verify import Wire
from rbserve.profilers.timing.latency import time_calls
from rbserve.profilers.timing.requests import Requests, bodies, draw
from rbserve.runtimes.opening import open_scorer
from rbserve.stats.intervals import student_interval

OTHERS = Path(__file__).resolve().parent / "other_servers.py"
SERVER_CORE, OWN_CORE = 0, 1
OTHER_ROOT = """
import runpy, sys
root = sys.argv.pop(1)
sys.path.insert(0, root)
import rbserve
assert rbserve.__file__.startswith(root), rbserve.__file__
runpy.run_module("rbserve", run_name="__main__")
"""


@dataclass
class Server:
    """A running server; `lines` is what it said on stderr, as it comes."""

    process: subprocess.Popen[str]
    url: str
    lines: list[str]

    def stop(self) -> int:
        """Told by SIGTERM; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextlib.contextmanager
def started(command: Sequence[str], ready: str, cores: Sequence[int] = (SERVER_CORE,)) -> Iterator[Server]:
    """A server in a process of its own on some cores, once it said `ready` and its address."""
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=env,
        preexec_fn=lambda: os.sched_setaffinity(0, cores), start_new_session=True,
    )  # fmt: skip
    lines: list[str] = []
    came = threading.Event()

    def read() -> None:
        assert process.stderr
        for line in process.stderr:
            lines.append(line.rstrip())
            if ready in line:
                came.set()
        came.set()

    threading.Thread(target=read, daemon=True).start()
    try:
        came.wait(300)
        said = next((line for line in lines if ready in line), None)
        if said is None:
            raise SystemExit("\n".join([f"no server: {' '.join(command)}", *lines]))
        found = re.search(r"http://\S+", said)
        assert found, said
        yield Server(process, found[0].rstrip("/"), lines)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it has started as well
        process.wait()


def rbserve(
    *options: str,
    model: str,
    dataset: str | None,
    variant: str,
    workers: int = 1,
    root: str = "",
    cores: Sequence[int] = (SERVER_CORE,),
) -> Any:
    """`rbserve serve` of a model on a free port; no data set where the model is a directory.

    `root` is another checkout whose code serves, for a comparison in one run.
    """
    start = ["-c", OTHER_ROOT, root] if root else ["-m", "rbserve"]
    command = [sys.executable, *start, "serve", "--model", model, "--variant", variant, "--port", "0"]
    command += [*(["--dataset", dataset] if dataset else []), *options]
    if workers > 1:
        command += ["--workers", str(workers)]
    return started(command, "serving ", (0, 1) if workers > 1 else cores)


@dataclass
class Asked:
    """A model, and requests for it at one slate."""

    artifact: Artifact
    dataset: Any
    slate: int

    @cached_property
    def requests(self) -> Requests:
        """The same each time."""
        rng = np.random.default_rng(2024)
        return draw(rng, self.dataset.ctr("test"), self.slate, len(self.dataset.items))

    def bodies(self) -> list[bytes]:
        """As JSON."""
        return bodies(self.requests, self.artifact.items, self.slate, self.artifact.name)

    def calls(self) -> list[tuple[Any, ...]]:
        """As the model takes them."""
        requests = self.requests
        assert requests.candidates is not None
        return [
            (slate_request(requests.histories[row], requests.candidates[row]),)
            for row in range(len(requests.histories))
        ]


def prepared(model: str, dataset: str, slate: int) -> Asked:
    """The artefact and its data set."""
    artifact = training.ensure_artifact(resolve(model, dataset))
    return Asked(artifact, data.ensure_dataset(artifact.manifest.dataset.name), slate)


# ---- The parts ----


def overhead(options: argparse.Namespace) -> None:
    """p50 of one connection less p50 of the call itself, in rounds of one run, beside other servers of the file."""
    asked = prepared(options.model, options.dataset, 1)
    (graph,) = asked.artifact.manifest.variants[options.variant].files
    with contextlib.ExitStack() as stack:
        # All are up before anything is timed, and idle while another one is asked.
        urls = {"rbserve": stack.enter_context(
            rbserve(model=options.model, dataset=options.dataset, variant=options.variant)).url}  # fmt: skip
        for name, python in (one.split("=", 1) for one in options.beside.split(",") if one):
            command = [python, str(OTHERS), name, str(asked.artifact.path), graph]
            urls[name] = stack.enter_context(started(command, "ready ")).url
        os.sched_setaffinity(0, [OWN_CORE])
        sent = asked.bodies()
        wires = {name: stack.enter_context(contextlib.closing(Wire(url))) for name, url in urls.items()}
        model = open_scorer(asked.artifact, options.variant)
        sides: dict[str, tuple[Callable[..., object], Sequence[tuple[Any, ...]]]] = {
            "the call itself": (model.score, asked.calls())
        }
        for name, wire in wires.items():
            address = address_of(urls[name])
            sides[name] = wire.ask, [(request_bytes(address, "/v1/score", body),) for body in sent]
        medians: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(options.rounds):
            for name in [*sides][:: 1 if number % 2 else -1]:
                times = time_calls(*sides[name], 300, 2.0).runs_ns
                medians[name].append(float(np.median(times)) / 1e6)
    own = np.array(medians.pop("the call itself"))
    print(f"| overhead at slate 1, {describe(options)} | the call itself p50 {np.median(own):.3f} ms |")
    for name, served in medians.items():
        added = np.array(served) - own
        low, high = student_interval(added)
        print(
            f"| … {name} | p50 {np.median(served):.3f} ms, {added.mean():+.3f} [{low:.3f}, {high:.3f}] ms |"
        )


def throughput(options: argparse.Namespace) -> None:
    """Candidates a second of one core: the call itself, in turn with the server, which is asked all the time."""
    asked = prepared(options.model, options.dataset, 100)
    with rbserve(model=options.model, dataset=options.dataset, variant=options.variant) as server:
        os.sched_setaffinity(0, [OWN_CORE])
        model, calls, rates = open_scorer(asked.artifact, options.variant), asked.calls(), []
        for _ in range(options.rounds):
            times = time_calls(model.score, calls, 1_000, 2.0).runs_ns
            alone = 100 * len(times) / (sum(times) / 1e9)
            found = saturated(server.url, asked, 3.0)
            rates.append((alone, 100 * found))
    share = np.array([served / alone for alone, served in rates])
    low, high = student_interval(share)
    alone, served = np.median(np.array(rates), axis=0)
    print(f"| candidates a second of a core, slate 100, {describe(options)} | the call itself {alone:,.0f}, "
          f"served {served:,.0f}: {share.mean():.0%} [{low:.0%}, {high:.0%}] |")  # fmt: skip


def saturated(url: str, asked: Asked, seconds: float) -> float:
    """Requests a second that are answered when four connections ask again as soon as they are answered."""
    sent = [request_bytes(address_of(url), "/v1/score", body) for body in asked.bodies()]
    counts = [0] * 4
    end = time.perf_counter() + seconds

    def ask(place: int) -> None:
        with contextlib.closing(Wire(url)) as wire:
            while time.perf_counter() < end:
                wire.send(sent[(place * 61 + counts[place]) % len(sent)])
                counts[place] += 1

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(4)]
    began = time.perf_counter()
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return sum(counts) / (time.perf_counter() - began)


def overload(options: argparse.Namespace) -> None:
    """What becomes of requests when twice as many come as can be answered; with --before in turn with that checkout."""
    for number in range(options.repeat):
        roots = {"now": ""} | ({"before": options.before} if options.before else {})
        for name in [*roots][:: 1 if number % 2 else -1]:
            _overload(options, name, roots[name])


def _overload(options: argparse.Namespace, name: str, root: str) -> None:
    asked = prepared(options.model, options.dataset, 100)
    deadline, seconds = options.deadline, options.seconds
    cores = [int(core) for core in options.server_cores.split(",")]
    path = str(asked.artifact.path)
    with rbserve(model=path, dataset=None, variant=options.variant, root=root, cores=cores) as server:
        os.sched_setaffinity(0, [OWN_CORE] if len(cores) == 1 else [options.own_core])
        offered = asked.bodies()
        peak, capacity = 0.0, saturated(server.url, asked, seconds / 3)
        for share in (0.7, 0.8, 0.9, 0.95, 1.0):
            found = offer(server.url, offered, capacity * share, seconds / 2, deadline)
            peak = max(peak, found.goodput_per_s)
        times = thread_seconds(server.process.pid)
        twice = offer(server.url, offered, 2 * capacity, seconds, deadline)
        spent = {
            kind: took - times.get(kind, 0.0) for kind, took in thread_seconds(server.process.pid).items()
        }
    met, refused = twice.latency_ms, twice.refusal_ms
    shares = ", ".join(f"{kind} {took / (seconds + 1):.0%}" for kind, took in spent.items())
    print(f"| {name}: twice what it can do, slate 100, {describe(options)}, deadline {deadline:g} ms, server on cores "
          f"{options.server_cores} | capacity {capacity:,.0f}/s; peak goodput {peak:,.0f}/s; at {2 * capacity:,.0f}/s "
          f"{twice.goodput_per_s:,.0f}/s ({twice.goodput_per_s / peak:.0%}); answered p50 {said(met, 'p50')}, p99 "
          f"{said(met, 'p99')}; refusals p50 {said(refused, 'p50')}, p99 {said(refused, 'p99')}; {twice.answers}, "
          f"{twice.failures}; of a core: {shares}; {twice.void or 'valid'} |", flush=True)  # fmt: skip


def thread_seconds(pid: int) -> dict[str, float]:
    """Processor seconds of the event loop's thread and of the others, the model's among them, of a process."""
    spent = {"loop": 0.0, "model": 0.0}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            spent["loop" if int(task.name) == pid else "model"] += (
                int((task / "schedstat").read_text().split()[0]) / 1e9
            )
    return spent


def offer(url: str, sent: list[bytes], rate: float, seconds: float, deadline: float | None = None) -> Load:
    """A load at a rate."""
    plan = LoadPlan(rate, seconds, warm_up_s=1.0, deadline_ms=deadline)
    return run_load(url, CTR.path, sent, plan)


def said(times: Any, which: str) -> str:
    """A percentile, where it is known."""
    value = None if times is None else getattr(times, which)
    return "–" if value is None else f"{value:.2f} ms"


def under_load(url: str, asked: Asked, rate: float, seconds: float) -> tuple[threading.Thread, list[Load]]:
    """A load in a thread, and where its outcome will be."""
    found: list[Load] = []
    thread = threading.Thread(target=lambda: found.append(offer(url, asked.bodies(), rate, seconds)))
    thread.start()
    time.sleep(1.5)
    return thread, found


def lost(load: Load) -> str:
    """What was not answered with success."""
    others = {status: number for status, number in load.answers.items() if status != "200"}
    return f"{load.sent:,} requests, of them failed: {load.failures or 'none'}, refused: {others or 'none'}"


def reloads(options: argparse.Namespace) -> None:
    """New versions under load, one after the other."""
    asked = prepared(options.model, options.dataset, 10)
    for workers in (1, 2):
        with rbserve("--admin", model=options.model, dataset=options.dataset, variant=options.variant,
                     workers=workers) as server:  # fmt: skip
            thread, found = under_load(server.url, asked, 200.0, options.times * 1.0 + 5)
            done, began = 0, time.monotonic()
            with Client(server.url, timeout_s=60) as client:
                while done < options.times and thread.is_alive():
                    client.reload()
                    done += 1
            took = (time.monotonic() - began) / max(1, done)
            thread.join()
        print(f"| {done} reloads under load, {workers} worker{'s' * (workers > 1)} | {lost(found[0])}; "
              f"{took:.2f} s each; p99 {said(found[0].latency_ms, 'p99')} |", flush=True)  # fmt: skip


def restarts(options: argparse.Namespace) -> None:
    """SIGTERM and a start, under load: who could connect is answered; who cannot was not accepted."""
    asked = prepared(options.model, options.dataset, 10)
    lost_requests, refused, answered, codes = 0, 0, 0, set()
    port = str(free_port())
    for _ in range(options.times):
        with rbserve(
            "--port", port, model=options.model, dataset=options.dataset, variant=options.variant
        ) as server:
            thread, found = under_load(server.url, asked, 300.0, 2.0)
            codes.add(server.stop())
            thread.join()
        load = found[0]
        answered += load.answers.get("200", 0)
        refused += load.failures.get("could not connect", 0)
        lost_requests += sum(number for why, number in load.failures.items() if why != "could not connect")
        lost_requests += sum(number for status, number in load.answers.items() if status != "200")
    print(f"| {options.times} stops by SIGTERM under load | exit codes {codes}; {answered:,} answered, "
          f"{lost_requests} accepted and lost; {refused:,} could not connect while nobody listened |")  # fmt: skip


def free_port() -> int:
    """A port that nobody has now."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


def losses(options: argparse.Namespace) -> None:
    """kill -9 of one of two workers under load."""
    asked = prepared(options.model, options.dataset, 10)
    with rbserve(model=options.model, dataset=options.dataset, variant=options.variant, workers=2) as server:
        pids = [
            int(found[1]) for line in server.lines if (found := re.match(r"worker \d of 2: pid (\d+)", line))
        ]
        thread, loads = under_load(server.url, asked, 300.0, 10.0)
        time.sleep(2)
        os.kill(pids[0], signal.SIGKILL)
        thread.join()
        again = sum("another takes its place" in line for line in server.lines)
    print(f"| kill -9 of one of two workers | {lost(loads[0])}; replaced: {again} |")


def soak(options: argparse.Namespace) -> None:
    """Many requests of all sizes and kinds, wrong ones among them: what the server's memory does."""
    asked = [prepared(options.model, options.dataset, slate) for slate in (1, 10, 100)]
    with rbserve(model=options.model, dataset=options.dataset, variant=options.variant) as server:
        os.sched_setaffinity(0, [OWN_CORE])
        address = address_of(server.url)
        payloads = [
            request_bytes(address, "/v1/score", body)
            for bodies in zip(*(one.bodies() for one in asked), strict=True)
            for body in bodies
        ]
        wrong = [
            b"{",
            b"[]",
            b'{"history": ["no"], "candidates": ["no"]}',
            b'{"history": [], "candidates": []}',
        ]
        payloads += [
            request_bytes(address, path, body) for body in wrong for path in ("/v1/score", "/v2/none")
        ]
        process, resident = psutil.Process(server.process.pid), []
        step = max(1, options.requests // 20)
        done, began = 0, time.monotonic()
        with contextlib.closing(Wire(server.url)) as wire:
            while done < options.requests:
                wire.send(payloads[done % len(payloads)])
                done += 1
                if done % step == 0:
                    resident.append(process.memory_info().rss)
        took = time.monotonic() - began
    grown = resident[-1] / resident[1] - 1
    print(f"| {done:,} mixed requests over one connection | {done / took:,.0f}/s; resident memory "
          f"{resident[1] / 1e6:.1f} MB after a tenth, {resident[-1] / 1e6:.1f} at the end: {grown:+.2%} |")  # fmt: skip


def language(options: argparse.Namespace) -> None:
    """A language model behind /v1/score, slate 20: new users, and users that it remembers."""
    asked = prepared(options.language, options.language_dataset, 20)
    for cache, kind in (("0", "new users"), ("1024", "the same users again")):
        with rbserve("--user-cache", cache, model=options.language, dataset=options.language_dataset,
                     variant=options.language_variant) as server:  # fmt: skip
            sent = [request_bytes(address_of(server.url), "/v1/score", body) for body in asked.bodies()[:20]]
            with contextlib.closing(Wire(server.url)) as wire:
                for one in sent:
                    wire.send(one)
                times = []
                for one in sent * options.repeats:
                    began = time.perf_counter()
                    wire.send(one)
                    times.append((time.perf_counter() - began) * 1000)
        print(f"| {options.language} {options.language_variant}, slate 20, {kind} | p50 {np.median(times):.0f} ms, "
              f"p99 {np.quantile(times, 0.99):.0f} ms of {len(times)} |", flush=True)  # fmt: skip


def describe(options: argparse.Namespace) -> str:
    """The model that is served."""
    return f"{options.model} {options.variant} on {options.dataset}"


PARTS = {
    one.__name__: one for one in (overhead, throughput, overload, reloads, restarts, losses, soak, language)
}


def main() -> None:
    """Runs the parts that are named, or all but that of a language model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--model", default="dnn")
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--variant", default="onnx-int8")
    parser.add_argument("--beside", default="", help="NAME=PYTHON, of other_servers.py, between commas")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--deadline", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=15.0, help="of overload, at twice the capacity")
    parser.add_argument("--repeat", type=int, default=1, help="times that overload is measured")
    parser.add_argument(
        "--before", default="", help="another checkout, whose server overload measures in turn"
    )
    parser.add_argument(
        "--server-cores", default=str(SERVER_CORE), help="of overload: 0,1 where there is a third"
    )
    parser.add_argument("--own-core", type=int, default=2, help="of overload, where the server has two cores")
    parser.add_argument("--language", default="zeroshot-smollm2-135m")
    parser.add_argument("--language-dataset", default="microlens")
    parser.add_argument("--language-variant", default="onnx-int8")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    for name in options.parts or [name for name in PARTS if name != "language"]:
        mask = os.sched_getaffinity(0)
        PARTS[name](options)
        sys.stdout.flush()
        os.sched_setaffinity(0, mask)


if __name__ == "__main__":
    main()
