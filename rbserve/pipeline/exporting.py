"""From an artefact to its ONNX files, each checked against the trained model."""

from __future__ import annotations

from collections.abc import Sequence

from rbserve.core.errors import UsageError, memory_told, needs_extra
from rbserve.core.variants import USUAL_PRECISIONS, check_indexes, exported_variant, exports_of, precisions_of
from rbserve.data.artifact import Artifact, Parity
from rbserve.home.target import Target
from rbserve.pipeline.data import rows_of
from rbserve.pipeline.training import ensure_artifact
from rbserve.progress import progress_bar, say


def export_model(
    target: Target,
    precisions: Sequence[str] | None = None,
    indexes: Sequence[str] = (),
    recall: float | None = None,
) -> Artifact:
    """Exports a model in the given precisions, or the usual ones that it can have; it is trained if it is missing.

    With `indexes` and without `precisions` these alone are written. `recall` is the share of the best items that an
    index is to find.
    """
    check_indexes(indexes)
    if recall is not None and not 0 < recall <= 1:
        raise UsageError(f"--recall must be above 0 and at most 1, not {recall:g}", "--recall 0.99")
    if indexes:
        precisions = [*(precisions or ()), *indexes]
    elif precisions is None:
        possible = precisions_of(target.variants)
        precisions = [name for name in USUAL_PRECISIONS if name in possible] or USUAL_PRECISIONS
    target.check_precisions(precisions)
    return export(ensure_artifact(target), precisions, recall)


def export(artifact: Artifact, precisions: Sequence[str], recall: float | None = None) -> Artifact:
    """Exports an artefact in the given precisions, and says how much the scores differ from the trained model's."""
    memory_advice = memory_told(f"exporting {artifact.name}", "a machine with more memory, or a smaller row")
    with memory_advice, needs_extra("export", "exporting"):
        from rbserve.exporters.export import export as export_artifact

        data = rows_of(artifact)
        with progress_bar(f"export {artifact.name}") as progress:
            exported = export_artifact(artifact, data, precisions, progress, recall)
    for precision in precisions:
        variant = exported_variant(precision)
        record = exported.manifest.variants[variant]
        parity, warnings = record.parity, "; ".join(record.warnings)
        say(
            f"exported {artifact.name} {variant}: max |difference| {parity.max_abs:.1e} on "
            f"{parity.rows} rows{_cost(parity)}{'; warning: ' + warnings if warnings else ''}"
        )
    return exported


def _cost(parity: Parity) -> str:
    """The change of accuracy that an export made, as the end of a sentence."""
    if parity.auc_difference is not None:
        return f", AUC {parity.auc_difference:+.5f}"
    if parity.ndcg is not None and parity.ndcg_reference is not None:
        change = parity.ndcg - parity.ndcg_reference
        if parity.recall is not None:
            return f", nDCG@{parity.k} {change:+.5f}, recall@{parity.k} {parity.recall:.4f} of the exact list"
        same = "" if parity.same_top is None else f", {parity.same_top:.1%} of the lists the same"
        return f", nDCG@{parity.k} {change:+.5f}{same}"
    return ""


def ensure_exported(artifact: Artifact, variants: Sequence[str] | None = None) -> Artifact:
    """The artefact with the files of these variants, or of the usual ones: missing ones are exported."""
    wanted = exports_of(artifact.usual_variants if variants is None else variants)
    missing = [name for name in wanted if name not in artifact.manifest.variants]
    return export(artifact, precisions_of(missing)) if missing else artifact
