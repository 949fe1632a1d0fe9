"""The artefact to serve, the figures of its run files, and load and checks for a running server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rbserve.core.errors import (
    UsageError,
    unknown_name,
)
from rbserve.core.tasks import TASKS
from rbserve.core.variants import find_variant
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset
from rbserve.data.request_set import RequestSet, open_request_set
from rbserve.home.commands import remaking_command, serving_options
from rbserve.home.paths import dataset_path, is_prepared
from rbserve.home.target import Target
from rbserve.pipeline.data import ensure_dataset, rows_of
from rbserve.pipeline.exporting import ensure_exported
from rbserve.pipeline.training import ensure_artifact
from rbserve.progress import progress_bar, say

if TYPE_CHECKING:
    from rbserve.client import ServedModel
    from rbserve.profilers.client.load import Load
    from rbserve.profilers.client.plan import LoadPlan
    from rbserve.profilers.client.verify import Verified
    from rbserve.runs.measurement import Measurement, Result
    from rbserve.server.api.schema import Measured, Profiled


def open_for_serving(target: Target, variant: str, make: bool = False, trust: bool = False) -> Artifact:
    """The artefact with the variant to serve, which is exported if it is missing.

    Exporting takes the data set that the artefact was made from. `make` also prepares the data set and trains the model
    if they are missing. A variant that runs the user's own code is a UsageError without `trust`.
    """
    if make:
        target.check_variants([variant])
    artifact = to_serve(target, make)
    require_own_code(artifact, variant)
    require_trust(artifact, variant, trust)
    if variant in artifact.can_open:
        return artifact
    if variant not in artifact.can_have:
        raise unknown_name(f"variant of {artifact.name}", variant, artifact.can_have)
    data_of(artifact, f"{variant} of {artifact.name} is not exported yet; exporting it", make)
    return ensure_exported(artifact, [variant])


def require_own_code(artifact: Artifact, variant: str) -> None:
    """UsageError for another variant of a model that is the user's own Python code and nothing else."""
    own = [name for name in artifact.can_have if find_variant(name).runs_own_code]
    if own == artifact.can_have and variant not in own:
        raise UsageError(
            f"{artifact.name} is a Python function and has no variant {variant}",
            f"--variant {own[0]} --trust serves it, if that code is yours",
        )


def require_trust(artifact: Artifact, variant: str, trust: bool) -> None:
    """UsageError for a variant that runs the user's own Python code, unless the user trusts it with the server."""
    if find_variant(variant).runs_own_code and variant in artifact.can_open and not trust:
        adopted = artifact.manifest.adopted
        code = adopted.callable if adopted else None
        raise UsageError(
            f"{artifact.name} runs Python code outside its artefact, {code}, for every request",
            "serve it with --trust if that code is yours",
        )


def to_serve(target: Target, make: bool = False) -> Artifact:
    """The artefact of a model, which is all that serving takes. UsageError where it is absent and not to be made."""
    if target.artifact:  # also where its data set has new rows: serving reads the items of the artefact
        return target.artifact
    if not make:
        raise target.absence()
    return ensure_artifact(target)


def data_of(artifact: Artifact, doing: str, make: bool = False) -> Dataset | RequestSet:
    """The data set that an artefact was made from, or the requests that it was adopted with.

    UsageError where they are not there any more; `doing` needs them.
    """
    adopted = artifact.manifest.adopted
    made_from = adopted.requests if adopted else artifact.manifest.dataset
    if exported := [*artifact.manifest.variants]:
        hint = f"rbserve serve {serving_options(artifact)} --variant {exported[0]} takes the artefact alone"
    else:
        hint = f"train it again: {remaking_command(artifact)}"
    if not make and not is_prepared(made_from.name):
        raise UsageError(f"{doing} takes data set {made_from.name}, which is not there", hint)
    data = rows_of(artifact)
    if data.fingerprint != made_from.fingerprint:
        raise UsageError(
            f"{doing} takes the data that it was made from ({made_from.fingerprint[:12]}), and data set {data.name} "
            f"is {data.fingerprint[:12]} now",
            hint,
        )
    return data


def measured(runs: Path, artifact: Artifact, variant: str) -> Profiled:
    """The figures of a variant in the run files of this artefact on this machine: the newest settled ones, if any.

    Without such a run, `note` says which other runs there are in the folder `runs`.
    """
    from rbserve.machine.environment import environment
    from rbserve.profilers.choose.choice import earlier_runs_of, runs_of
    from rbserve.runs.measurement import key_here
    from rbserve.runs.run_file import read_measurement
    from rbserve.server.api.schema import NOT_PROFILED, Profiled

    here = environment()
    disturbed: Profiled | None = None
    note = unprofiled = NOT_PROFILED.note
    for path in runs_of(artifact, runs):
        run = read_measurement(path)
        own = [result for result in run.results if result.variant == variant]
        settled = [result for result in own if not result.inconclusive]
        key = key_here(run, here)
        if run.comparability_key == key and settled:
            return Profiled(_figures(run, settled, path.stem))
        if run.comparability_key == key and own:
            disturbed = disturbed or Profiled(_figures(run, own, path.stem))
        elif note == unprofiled:
            other = "of another machine or other libraries" if own else "of other variants"
            note = f"not profiled here: run {path.stem} is {other}"
    if note == unprofiled and earlier_runs_of(artifact, runs):
        note = f"profiled before the artefact was changed; rbserve profile --model {artifact.path} measures it anew"
    return disturbed or Profiled(note=note)


def _figures(run: Measurement, results: Sequence[Result], run_id: str) -> list[Measured]:
    from rbserve.server.api.schema import Measured

    metric = TASKS[run.task].metric
    judged = [result.accuracy.get(metric) for result in results]
    return [
        Measured(
            result.scope, result.slate, run.plan.threads, result.latency_ms.p50, result.latency_ms.p99, metric,
            accuracy if isinstance(accuracy, float) else None, run_id, result.inconclusive,
        )
        for result, accuracy in zip(results, judged, strict=True)
    ]  # fmt: skip


def load(url: str, model: str | None, slate: int | None, plan: LoadPlan) -> Load:
    """Offers the server at `url` requests of test users of the data set that its model says it belongs to.

    Of an adopted model they are requests of the table that it was adopted with.
    """
    from rbserve.client import Client
    from rbserve.profilers.client.load import run_load

    with Client(url) as client:
        served = client.model(model)
    task = TASKS[served.task]
    size = slate or task.default_sizes[-1]
    sent = (
        _bodies_of_requests(served, url, size, plan.seed)
        if served.requests
        else _bodies_of_rows(served, url, size, plan.seed)
    )
    if find_variant(served.variant).paid:
        most = len(sent) * size
        say(f"{served.name} is answered by an endpoint: up to {most:,} requests to it are paid for")
    with progress_bar(f"load on {served.name}", bound="about") as progress:
        return run_load(url, task.path, sent, plan, progress)


def _bodies_of_rows(served: ServedModel, url: str, size: int, seed: int) -> list[bytes]:
    """Requests of test users, with `size` candidates or for as many items."""
    import numpy as np

    from rbserve.profilers.timing.requests import bodies, draw, request_coders

    data = ensure_dataset(served.dataset)
    served.require_data(data.fingerprint, url)
    requests = draw(np.random.default_rng(seed), data.rows(served.task, "test"), size, len(data.items))
    coders = request_coders(data, {field.name for field in served.fields})
    return bodies(requests, data.items, size, served.name, coders, served.reads_time)


def _bodies_of_requests(served: ServedModel, url: str, size: int, seed: int) -> list[bytes]:
    """Requests of an adopted model's table, with `size` candidates."""
    import numpy as np

    from rbserve.profilers.timing.requests import draw_rows, feature_bodies

    assert served.requests
    requests = open_request_set(dataset_path(served.requests.name))
    served.require_requests(requests.fingerprint, url)
    drawn = draw_rows(np.random.default_rng(seed), requests.offsets, size)
    return feature_bodies(requests, [feature.name for feature in served.features], drawn, served.name)


def verify(target: Target, url: str, slate: int | None, overhead: float | None, rounds: int) -> Verified:
    """Compares the answers and the latency of the server at `url` with those of the artefact that it serves."""
    from rbserve.profilers.client.verify import OVERHEAD_LIMIT
    from rbserve.profilers.client.verify import verify as compare

    artifact = to_serve(target)
    if artifact.is_endpoint:
        raise UsageError(
            f"{artifact.name} is answered by an endpoint: holding a server against it would pay for every call",
            "rbserve profile tells beforehand how many requests it makes",
        )
    data = data_of(artifact, "verifying asks for test users, and that")
    size = slate or TASKS[artifact.manifest.task].default_sizes[0]
    limit = OVERHEAD_LIMIT if overhead is None else overhead
    with progress_bar(f"verify {artifact.name}") as progress:
        return compare(artifact, data, url, size, limit, rounds, progress=progress)
