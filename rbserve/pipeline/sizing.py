"""`rbserve size`: the runs that a size is predicted from, the overhead of HTTP and the file of arrivals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rbserve.core.errors import UsageError
from rbserve.core.tasks import TASKS
from rbserve.data.dataset import open_dataset
from rbserve.home.paths import dataset_path, is_prepared, runs_path
from rbserve.progress import progress_bar

if TYPE_CHECKING:
    from rbserve.profilers.capacity.plan import CapacityPlan
    from rbserve.profilers.capacity.service_times import Overhead, ServiceTimes
    from rbserve.profilers.capacity.sizing import Sizing
    from rbserve.runs.plan import Slate


def size(
    slo: str,
    plan: CapacityPlan,
    *,
    model: str | None = None,
    dataset: str | None = None,
    variant: str | None = None,
    slate: Slate | None = None,
    scope: str | None = None,
    threads: int | None = None,
    arrivals: Path | None = None,
    verified: Path | None = None,
    runs: Path | None = None,
) -> Sizing:
    """The replicas that a rate takes under the latency objectives `slo`, by the run files.

    `arrivals` is a file of times, `verified` the output of `rbserve verify --json`. Raises UsageError without a rate
    or arrivals, and where the runs leave a choice that no argument settles.
    """
    import numpy as np

    from rbserve.profilers.capacity.arrivals import read_arrivals
    from rbserve.profilers.capacity.service_times import service_times
    from rbserve.profilers.capacity.sizing import size as simulate
    from rbserve.profilers.choose.objectives import parse_objectives
    from rbserve.profilers.report.render import collect

    objectives = parse_objectives(slo)
    if plan.rate is None and arrivals is None:
        raise UsageError("how many requests a second are there to be?", "--rate 5000, or --arrivals FILE")
    trace = None if arrivals is None else read_arrivals(arrivals, np.random.default_rng(plan.seed))
    times = service_times(collect(runs or runs_path()), model, dataset, variant, slate, scope, threads)
    overhead = _overhead(plan, times, verified)
    lengths = _history_lengths(times, plan)
    with progress_bar(f"size {times.run.model}", bound="about") as progress:
        return simulate(times, overhead, objectives, plan, trace, lengths, progress)


def _overhead(plan: CapacityPlan, times: ServiceTimes, verified: Path | None) -> Overhead:
    from rbserve.profilers.capacity.service_times import OVERHEAD_MS, Overhead, read_verified

    if plan.overhead_ms is not None:
        return Overhead(plan.overhead_ms)
    return Overhead(OVERHEAD_MS) if verified is None else read_verified(verified, times)


def _history_lengths(times: ServiceTimes, plan: CapacityPlan) -> list[int] | None:
    """The lengths of test users' histories, of a model whose server answers histories of one length together."""
    import numpy as np

    if plan.batch_share == 1:
        return None
    run = times.run
    if not TASKS[run.task].ranks:
        raise UsageError(
            f"a server answers each request for {run.model} by a call of its own", "leave out --batch-share"
        )
    if not is_prepared(run.dataset):
        raise UsageError(
            f"which requests share a call depends on the histories of {run.dataset}, which is not there",
            "leave out --batch-share",
        )
    histories = open_dataset(dataset_path(run.dataset)).rows(run.task, "test").histories
    longest = run.config.get("max_history")
    lengths = np.diff(histories.offsets)
    return [*map(int, np.minimum(lengths, longest) if isinstance(longest, int) else lengths)]
