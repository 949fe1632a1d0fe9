"""From run files to a report and a recommendation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbserve.core.errors import needs_extra, unknown_name
from rbserve.core.files import require_replaceable, require_writable
from rbserve.home.paths import dataset_path, report_path, runs_path
from rbserve.progress import progress_bar

if TYPE_CHECKING:
    from rbserve.profilers.choose.recommendation import Recommendation


def report(name: str, runs: Path | None = None, datasets: Sequence[str] = ()) -> Path:
    """Renders the newest run file of every model on these data sets (default all) into reports/<name>/."""
    from rbserve.profilers.report.render import collect, render, with_sketch

    folder = report_path(name)
    require_replaceable(folder, "report.json")
    require_writable(folder.parent)
    measurements = collect(runs or runs_path())
    known = {run.dataset for run in measurements}
    for dataset in datasets:
        if dataset not in known:
            raise unknown_name("data set with runs", dataset, known)
    chosen = [
        with_sketch(run, dataset_path(run.dataset))
        for run in measurements
        if run.dataset in (datasets or known)
    ]
    with needs_extra("report", "reporting"), progress_bar(f"report {name}"):
        return render(chosen, folder)


def recommend(slo: str, runs: Path | None = None, **choice: Any) -> Recommendation:
    """The most accurate variant that meets the latency objectives `slo`; `choice`: as `choose.recommend` takes it."""
    from rbserve.profilers.choose.objectives import parse_objectives
    from rbserve.profilers.choose.recommend import recommend as choose
    from rbserve.profilers.report.render import collect

    objectives = parse_objectives(slo)
    return choose(collect(runs or runs_path()), objectives, **choice)
