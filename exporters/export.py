"""Exports an artefact in the requested precisions and refuses graphs that do not score like the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rbserve.core.errors import ParityError, UsageError
from rbserve.core.files import replacing, scratch
from rbserve.core.tasks import TASKS
from rbserve.core.types import Progress, no_progress
from rbserve.core.variants import (
    APPROXIMATED,
    DEFAULT_SERVED,
    INDEXES,
    USUAL_PRECISIONS,
    check_precisions,
    exported_variant,
    find_variant,
    precisions_of,
    why_no_index,
)
from rbserve.data.artifact import Artifact, Parity, VariantRecord, add_variants, with_mapped_items
from rbserve.data.dataset import Dataset, check_same_data
from rbserve.data.golden import write_checks
from rbserve.data.request_set import RequestSet
from rbserve.exporters import adopted, parity
from rbserve.exporters.calibration import Activations, calibrate
from rbserve.exporters.graph import activation_scales, data_file
from rbserve.exporters.item_table import declare_table
from rbserve.exporters.quantize import write_int8
from rbserve.exporters.request_parity import RequestReference, check_same_requests
from rbserve.runtimes.item_vectors import content_kind
from rbserve.runtimes.memory import require_memory

MOST_LOSS = 0.002
"""The loss of AUC or nDCG@10 above which an int8 or int4 variant has a warning."""
Quantiser = Callable[[Artifact, Path, Path, Activations], None]
QUANTISERS: dict[str, Quantiser] = {"int8": write_int8}


def export(
    artifact: Artifact,
    dataset: Dataset | RequestSet,
    precisions: Sequence[str] = USUAL_PRECISIONS,
    progress: Progress = no_progress,
    recall: float | None = None,
) -> Artifact:
    """Writes the ONNX graphs of each precision and records their parity with the reference on test rows.

    Precisions that are indexes are written too; `recall` is what they are to find of the ten best items.

    Test rows of a model that was made elsewhere are requests of the table that it was adopted with.

    Raises ParityError when fp32 differs from the reference by more than rounding (`Reference.is_equal`); of the kinds
    APPROXIMATED it is written with a warning. An int8 or int4 variant that loses more than MOST_LOSS of AUC or nDCG@10
    is written with a warning too. Every table shows the warnings.
    """
    _require_exportable(artifact, precisions)
    reference = _reference_of(artifact, dataset)
    with scratch(artifact.path.parent, f"{artifact.path.name}-export") as folder:
        wanted = [name for name in dict.fromkeys(precisions) if name not in INDEXES]
        if artifact.is_language_model and not isinstance(dataset, RequestSet):
            graphs = {
                precision: _language_graph(artifact, dataset, folder, precision, reference)
                for precision in _with_progress(wanted, progress)
            }
        else:
            graphs = {
                precision: (files, reference.compare(files))
                for precision, files in (_graphs(artifact, dataset, folder, wanted).items() if wanted else ())
            }
        tower = _export_tower(artifact, folder) if artifact.has_tower else []
        records = {
            exported_variant(precision): _admit(artifact, precision, files, comparison, reference, tower)
            for precision, (files, comparison) in graphs.items()
        }
        if indexes := [name for name in dict.fromkeys(precisions) if name in INDEXES]:
            from rbserve.exporters import item_index  # imported here: needs torch

            assert isinstance(dataset, Dataset)
            assert isinstance(reference, parity.ListReference)
            records |= item_index.export_indexes(
                artifact, dataset, folder, indexes, reference,
                item_index.RECALL if recall is None else recall, tower, progress,
            )  # fmt: skip
    return with_mapped_items(add_variants(artifact, records))


def _require_exportable(artifact: Artifact, precisions: Sequence[str]) -> None:
    """UsageError for a precision that the model cannot be exported in, RbserveError for one too large for memory."""
    if artifact.is_endpoint:
        raise UsageError(f"{artifact.name} is answered by an endpoint: there is nothing to export")
    check_precisions(precisions)
    for precision in precisions:
        variant = exported_variant(precision)
        if variant not in artifact.can_export:
            known = ", ".join(precisions_of(artifact.can_export))
            why = artifact.unchanged.get(precision) or why_no_index(
                precision, artifact.manifest.task, artifact.kind
            )
            reason = f": {why}" if why else ""
            raise UsageError(
                f"{artifact.name} cannot be exported in {precision}{reason}",
                f"precisions that it can be exported in: {known or 'none'}",
            )
        require_memory(artifact, variant)


def _reference_of(artifact: Artifact, dataset: Dataset | RequestSet) -> parity.Reference:
    """The reference's answers; UsageError where the artefact was made from other data, or of other requests."""
    if isinstance(dataset, RequestSet):
        check_same_requests(artifact, dataset)
        return RequestReference(artifact, dataset)
    check_same_data(artifact.name, artifact.manifest.dataset.fingerprint, dataset)
    return parity.reference_of(artifact, dataset)


def _with_progress(precisions: Sequence[str], progress: Progress) -> Iterator[str]:
    """Yields the precisions and reports each as the graph that is being written."""
    for place, precision in enumerate(precisions):
        progress(place, len(precisions), f"graphs written, now {precision}")
        yield precision


def _language_graph(
    artifact: Artifact, dataset: Dataset, folder: Path, precision: str, reference: parity.Reference
) -> tuple[list[Path], parity.Comparison]:
    """Writes the graph of one precision; returns its files and their comparison with the reference.

    int8 rounds as many products by token as possible: the first of MOST_ERRORS whose loss is at most MOST_LOSS, else
    the one with the smallest loss.
    """
    # Imported here: the graphs of adopted models need no torch.
    from rbserve.exporters import language
    from rbserve.exporters.tokenwise import MOST_ERRORS, plan_within

    if precision != "int8":
        files = language.write(artifact, folder, precision)
        return files, reference.compare(files)
    plan = language.rounding_plan(artifact, dataset)
    comparisons: dict[float, parity.Comparison] = {}
    for most in MOST_ERRORS:
        files = language.write(artifact, folder, precision, plan_within(plan, most))
        comparisons[most] = reference.compare(files)
        if artifact.is_random or reference.loss(comparisons[most].parity) <= MOST_LOSS:
            return files, comparisons[most]
    best = min(comparisons, key=lambda most: reference.loss(comparisons[most].parity))
    return language.write(artifact, folder, precision, plan_within(plan, best)), comparisons[best]


def _graphs(
    artifact: Artifact, dataset: Dataset | RequestSet, folder: Path, precisions: Sequence[str]
) -> dict[str, list[Path]]:
    """Writes the graphs of each precision; a model's graphs are in the order in which they run."""
    if isinstance(dataset, RequestSet):
        return adopted.write_graphs(artifact, dataset, folder, precisions)
    fp32 = _write_fp32(artifact, folder)
    graphs = {
        precision: fp32 if precision == "fp32" else _quantise(artifact, dataset, fp32, precision)
        for precision in precisions
    }
    if content_kind(artifact) is not None:
        for precision, (path,) in graphs.items():
            declare_table(artifact, precision, path)
    return graphs


def _write_fp32(artifact: Artifact, folder: Path) -> list[Path]:
    """Writes the fp32 graphs of a zoo row."""
    # Imported here: the graphs of adopted models, and of trees, need no torch.
    if artifact.kind == "trees":
        from rbserve.exporters import trees

        return trees.write_fp32(artifact, folder)
    from rbserve.exporters import onnx, sequential

    write = sequential.write_fp32 if TASKS[artifact.manifest.task].ranks else onnx.write_fp32
    return write(artifact, folder)


def _quantise(artifact: Artifact, dataset: Dataset, fp32: list[Path], precision: str) -> list[Path]:
    paths = [path.with_name(path.name.replace("fp32", precision, 1)) for path in fp32]
    for source, path, activations in zip(fp32, paths, calibrate(artifact, dataset, fp32), strict=True):
        QUANTISERS[precision](artifact, source, path, activations)
    return paths


def _export_tower(artifact: Artifact, folder: Path) -> list[str]:
    """Writes the graph of an artefact's tower into it, which every variant has; returns the names of its files."""
    from rbserve.exporters.item_tower import write_tower  # imported here: needs torch

    return _move_files(artifact, write_tower(artifact, folder))


def _admit(
    artifact: Artifact,
    precision: str,
    graphs: list[Path],
    comparison: parity.Comparison,
    reference: parity.Reference,
    tower: list[str],
) -> VariantRecord:
    """Moves exported files into the artefact; ParityError for an fp32 graph that differs from the reference."""
    measured, variant = comparison.parity, exported_variant(precision)
    if precision == "fp32" and not reference.is_equal(measured) and artifact.kind not in APPROXIMATED:
        raise ParityError(
            f"{artifact.name} {variant} differs from {parity.reference_variant(artifact)} on {measured.rows} rows: "
            f"{reference.describe(measured)}",
            "nothing was written; the exported graph does not compute the model",
        )
    data = _move_graphs(artifact, graphs)
    file, *step = [f"onnx/{path.name}" for path in graphs]
    checks = f"onnx/{precision}.checks.json"
    write_checks(artifact.path / checks, comparison.checks, find_variant(variant).tolerance)
    return VariantRecord(
        file, measured, _warnings(artifact, precision, measured, reference),
        step_file=step[0] if step else None,
        data_files=data, checks=checks,
        activation_scales=activation_scales(artifact, precision),
        tower=tower,
    )  # fmt: skip


def _move_graphs(artifact: Artifact, graphs: list[Path]) -> list[str]:
    """Moves graphs, and the files with their large weights, into the artefact; returns the names of the latter.

    A graph that stands there already is that of an adopted model.
    """
    if graphs[0].is_relative_to(artifact.path / "onnx"):
        return artifact.manifest.variants[DEFAULT_SERVED].data_files
    data = [weights for path in graphs if (weights := data_file(path)).exists()]
    return _move_files(artifact, [*data, *graphs])[: len(data)]


def _move_files(artifact: Artifact, paths: list[Path]) -> list[str]:
    """Moves exported files into an artefact; returns their names in it."""
    for path in paths:
        with replacing(artifact.path / "onnx" / path.name) as partial:
            path.replace(partial)
    return [f"onnx/{path.name}" for path in paths]


def _warnings(artifact: Artifact, precision: str, measured: Parity, reference: parity.Reference) -> list[str]:
    if precision == "fp32":
        if reference.is_equal(measured):
            return []
        compared = f"differs from {parity.reference_variant(artifact)} on {measured.rows} rows"
        return [f"{precision} {compared}: {reference.describe(measured)}"]
    loss = reference.loss(measured)
    if artifact.is_random or loss <= MOST_LOSS:
        return []
    if measured.auc is None and measured.ndcg is None:
        return [
            f"{precision} scores correlate with fp32 by {measured.correlation or 0.0:.5f} on {measured.rows} rows: "
            f"that may cost {loss:.4f} AUC, more than {MOST_LOSS}"
        ]
    metric = "AUC" if measured.ndcg is None else "nDCG@10"
    return [f"{precision} loses {loss:.4f} {metric} on {measured.rows} rows, more than {MOST_LOSS}"]
