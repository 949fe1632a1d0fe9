"""From two versions of a model to a verdict: artefacts, run files, or two models' files and a table of requests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbserve.core.adoption import AdoptOptions
from rbserve.core.errors import UsageError, memory_told, needs_extra
from rbserve.core.files import at_home, scratch
from rbserve.data.artifact import Artifact
from rbserve.home.paths import dataset_path
from rbserve.pipeline.adopting import default_name
from rbserve.pipeline.data import rows_of
from rbserve.pipeline.exporting import ensure_exported
from rbserve.progress import progress_bar

if TYPE_CHECKING:
    from rbserve.profilers.gate.config import GateConfig
    from rbserve.profilers.gate.rounds import GateOutcome
    from rbserve.profilers.gate.sides import Pair

TEMPORARY, REQUESTS = "rbserve-check", "requests"


def check(
    base: Path,
    head: Path,
    models: Sequence[str] | None = None,
    base_python: Path | None = None,
    config: GateConfig | None = None,
    scope: Mapping[str, Any] | None = None,
) -> GateOutcome:
    """Compares the models at `head` with those at `base`; `scope` has fields of the gate's Scope."""
    from rbserve.profilers.gate.pairs import pairs_of

    return _judge(pairs_of(base, head, models, base_python), config, scope or {})


def check_files(
    base: str,
    head: str,
    table: Path,
    options: Mapping[str, Any] | None = None,
    base_python: Path | None = None,
    config: GateConfig | None = None,
    scope: Mapping[str, Any] | None = None,
) -> GateOutcome:
    """Compares the files of two models on the requests of a table; nothing is left of them.

    `base` and `head` are what `adopt` takes, in the same format or in two; `options` has fields of AdoptOptions, which
    hold for both. Raises UsageError or DataError for a model or a table that cannot be read.
    """
    from rbserve.profilers.gate.pairs import worker_of
    from rbserve.profilers.gate.sides import Pair

    _require_judge(scope or {}, config)
    worker = worker_of(base_python)
    wanted = (scope or {}).get("variants") or ()
    with _adopted(base, head, table, AdoptOptions(**(options or {}))) as (before, after):
        before, after = (_with_variants(artifact, wanted) for artifact in (before, after))
        name = before.name if before.name == after.name else f"{before.name} to {after.name}"
        return _judge([Pair(name, before, after, base_worker=worker)], config, scope or {})


def _with_variants(artifact: Artifact, wanted: Sequence[str]) -> Artifact:
    """The artefact with those of the variants exported that such a model can have."""
    possible = [variant for variant in wanted if variant in artifact.can_have]
    return ensure_exported(artifact, possible) if possible else artifact


def _judge(pairs: Sequence[Pair], config: GateConfig | None, scope: Mapping[str, Any]) -> GateOutcome:
    _require_judge(scope, config)
    from rbserve.profilers.gate.config import GateConfig
    from rbserve.profilers.gate.rounds import check as judge
    from rbserve.profilers.gate.sides import Scope

    with progress_bar("check") as progress:
        return judge(pairs, rows_of, config or GateConfig(), Scope(**scope), progress)


def _require_judge(scope: Mapping[str, Any], config: GateConfig | None) -> None:
    """Raises UsageError before anything is measured: for a scope that is unknown, and without the extra check."""
    with needs_extra("check", "judging a change"):
        import scipy.special  # noqa: F401

        from rbserve.profilers.gate.config import GateConfig
        from rbserve.profilers.gate.rounds import check_scope
        from rbserve.profilers.gate.sides import Scope
    check_scope(Scope(**scope), config or GateConfig())


@contextmanager
def _adopted(base: str, head: str, table: Path, options: AdoptOptions) -> Iterator[tuple[Artifact, Artifact]]:
    """Artefacts of two models in a home directory of their own, which is removed at the end."""
    with needs_extra("adopt", "adopting a model"):
        from rbserve.data.request_table import write_request_set
        from rbserve.exporters.adopt.adopt import adopt
        from rbserve.exporters.adopt.formats import find_format

    for source in (base, head):
        if (Path(source) / "manifest.json").is_file():
            raise UsageError(f"{source} is an artefact, which has its requests", "leave out --requests")
        find_format(source)
    if not table.is_file():
        raise UsageError(f"there is no table {table}", "--requests takes a Parquet, CSV or JSON lines file")
    advice = memory_told("adopting the models", "fewer rows of the table, or a machine with more memory")
    with scratch(Path(tempfile.gettempdir()), TEMPORARY) as home, at_home(home):
        with advice, needs_extra("adopt", "adopting a model"):
            with progress_bar(f"read {table.name}", bound="about") as progress:
                requests = write_request_set(table, dataset_path(REQUESTS), options, REQUESTS, progress)
            with progress_bar("adopt the models"):
                before, after = (
                    adopt(source, requests, options, home / side / default_name(source))
                    for side, source in (("base", base), ("head", head))
                )
        yield before, after
