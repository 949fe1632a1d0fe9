"""From run files to a report and a recommendation, and from two versions of a model to a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbserve.core.errors import needs_extra, unknown_name
from rbserve.core.files import require_replaceable, require_writable
from rbserve.home.paths import dataset_path, report_path, runs_path
from rbserve.pipeline.data import ensure_dataset
from rbserve.progress import progress_bar

if TYPE_CHECKING:
    from rbserve.data.artifact import Artifact
    from rbserve.data.dataset import Dataset
    from rbserve.profilers.choose.recommend import Recommendation
    from rbserve.profilers.gate.config import GateConfig
    from rbserve.profilers.gate.rounds import GateOutcome


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


def check(
    base: Path,
    head: Path,
    models: Sequence[str] | None = None,
    base_python: Path | None = None,
    config: GateConfig | None = None,
    scope: Mapping[str, Any] | None = None,
) -> GateOutcome:
    """Compares the models at `head` with those at `base`; `scope` has fields of the gate's Scope."""
    from rbserve.profilers.gate.config import GateConfig
    from rbserve.profilers.gate.pairs import pairs_of

    pairs = pairs_of(base, head, models, base_python)
    with needs_extra("check", "judging a change"):
        import scipy.special  # noqa: F401  (missing, it is to be missed before anything is measured)

        from rbserve.profilers.gate.rounds import check as judge
        from rbserve.profilers.gate.sides import Scope

    def dataset_of(artifact: Artifact) -> Dataset:
        return ensure_dataset(artifact.manifest.dataset.name)

    with progress_bar("check") as progress:
        return judge(pairs, dataset_of, config or GateConfig(), Scope(**(scope or {})), progress)


def recommend(slo: str, runs: Path | None = None, **choice: Any) -> Recommendation:
    """The most accurate variant that meets the latency objectives `slo`; `choice`: as `choose.recommend` takes it."""
    from rbserve.profilers.choose.recommend import parse_objectives
    from rbserve.profilers.choose.recommend import recommend as choose
    from rbserve.profilers.report.render import collect

    objectives = parse_objectives(slo)
    return choose(collect(runs or runs_path()), objectives, **choice)
