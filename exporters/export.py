"""Exports an artefact at the precisions asked for, and lets in only what scores like the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rbserve.core.errors import ParityError, UsageError
from rbserve.core.files import replacing, scratch
from rbserve.core.tasks import TASKS
from rbserve.core.types import Progress, no_progress
from rbserve.core.variants import (
    REFERENCE,
    USUAL_PRECISIONS,
    check_precisions,
    exported_variant,
    find_variant,
    precisions_of,
)
from rbserve.data.artifact import Artifact, Parity, VariantRecord, add_variants
from rbserve.data.dataset import Dataset, check_same_data
from rbserve.data.golden import write_checks
from rbserve.exporters import language, onnx, parity, sequential
from rbserve.exporters.calibration import Activations, calibrate
from rbserve.exporters.graph import activation_scales, data_file
from rbserve.exporters.item_table import declare_table
from rbserve.exporters.quantize import write_int8
from rbserve.exporters.tokenwise import MOST_ERRORS, within
from rbserve.runtimes.item_vectors import content_kind
from rbserve.runtimes.memory import require_memory

MOST_LOSS = 0.002

# Graphs in fp32, and how they are held against the reference.
Quantiser = Callable[[Artifact, Path, Path, Activations], None]
QUANTISERS: dict[str, Quantiser] = {"int8": write_int8}


def export(
    artifact: Artifact,
    dataset: Dataset,
    precisions: Sequence[str] = USUAL_PRECISIONS,
    progress: Progress = no_progress,
) -> Artifact:
    """Writes the ONNX graphs of each precision and records their parity on real rows.

    Raises ParityError when fp32 differs from the reference by more than `parity` allows; a coarser variant that
    loses more than MOST_LOSS of AUC or nDCG@10 is kept, with a warning that every table shows.
    """
    if artifact.is_endpoint:
        raise UsageError(f"{artifact.name} answers from an endpoint; there is nothing to export")
    check_precisions(precisions)
    for precision in precisions:
        variant = exported_variant(precision)
        if variant not in artifact.can_export:
            known = ", ".join(precisions_of(artifact.can_export))
            raise UsageError(
                f"{artifact.name} cannot be exported in {precision}",
                f"precisions of a model like it: {known}",
            )
        require_memory(artifact, variant)
    check_same_data(artifact.name, artifact.manifest.dataset.fingerprint, dataset)
    reference = parity.reference_of(artifact, dataset)
    with scratch(artifact.path.parent, f"{artifact.path.name}-export") as folder:
        wanted = list(dict.fromkeys(precisions))
        if artifact.is_language_model:
            made = {
                name: _language_graph(artifact, dataset, folder, name, reference)
                for name in _counted(wanted, progress)
            }
        else:
            made = {
                name: (files, reference.compare(files))
                for name, files in _graphs(artifact, dataset, folder, wanted).items()
            }
        records = {
            exported_variant(precision): _admit(artifact, precision, files, found, reference)
            for precision, (files, found) in made.items()
        }
    return add_variants(artifact, records)


def _counted(precisions: Sequence[str], progress: Progress) -> Iterator[str]:
    """The precisions one by one; says of each that it is being made."""
    for place, precision in enumerate(precisions):
        progress(place, len(precisions), f"graphs made, now {precision}")
        yield precision


def _language_graph(
    artifact: Artifact, dataset: Dataset, folder: Path, precision: str, reference: parity.Reference
) -> tuple[list[Path], parity.Compared]:
    """The graph of a precision, and how it scores.

    int8 rounds as many products by token as scores allow; where none of MOST_ERRORS does, what costs least.
    """
    if precision != "int8":
        files = language.write(artifact, folder, precision)
        return files, reference.compare(files)
    plan = language.rounding_plan(artifact, dataset)
    tried: dict[float, parity.Compared] = {}
    for most in MOST_ERRORS:
        files = language.write(artifact, folder, precision, within(plan, most))
        tried[most] = reference.compare(files)
        if artifact.is_random or reference.loss(tried[most].parity) <= MOST_LOSS:
            return files, tried[most]
    least = min(tried, key=lambda most: reference.loss(tried[most].parity))
    return language.write(artifact, folder, precision, within(plan, least)), tried[least]


def _graphs(
    artifact: Artifact, dataset: Dataset, folder: Path, precisions: Sequence[str]
) -> dict[str, list[Path]]:
    """The graphs of each precision, in the order in which they run."""
    write_fp32 = sequential.write_fp32 if TASKS[artifact.manifest.task].ranks else onnx.write_fp32
    fp32 = write_fp32(artifact, folder)
    made = {
        precision: fp32 if precision == "fp32" else _quantised(artifact, dataset, fp32, precision)
        for precision in precisions
    }
    if content_kind(artifact) is not None:
        for precision, (path,) in made.items():
            declare_table(artifact, precision, path)
    return made


def _quantised(artifact: Artifact, dataset: Dataset, fp32: list[Path], precision: str) -> list[Path]:
    paths = [path.with_name(path.name.replace("fp32", precision, 1)) for path in fp32]
    for source, path, activations in zip(fp32, paths, calibrate(artifact, dataset, fp32), strict=True):
        QUANTISERS[precision](artifact, source, path, activations)
    return paths


def _admit(
    artifact: Artifact,
    precision: str,
    made: list[Path],
    compared: parity.Compared,
    reference: parity.Reference,
) -> VariantRecord:
    """Checks exported files, of which `compared` is known, and moves them into the artefact."""
    found, variant = compared.parity, exported_variant(precision)
    if precision == "fp32" and not reference.is_equal(found):
        raise ParityError(
            f"{artifact.name} {variant} differs from {REFERENCE} on {found.rows} rows: {reference.describe(found)}",
            "nothing was written; the exported graph does not compute the model",
        )
    data = [weights for path in made if (weights := data_file(path)).exists()]
    for path in (*data, *made):
        with replacing(artifact.path / "onnx" / path.name) as partial:
            path.replace(partial)
    file, *step = [f"onnx/{path.name}" for path in made]
    checks = f"onnx/{precision}.checks.json"
    write_checks(artifact.path / checks, compared.checks, find_variant(variant).tolerance)
    return VariantRecord(
        file, found, _warnings(artifact, precision, found, reference.loss(found)), step_file=step[0] if step else None,
        data_files=[f"onnx/{path.name}" for path in data], checks=checks,
        activation_scales=activation_scales(artifact, precision),
    )  # fmt: skip


def _warnings(artifact: Artifact, precision: str, found: Parity, loss: float) -> list[str]:
    if precision == "fp32" or artifact.is_random or loss <= MOST_LOSS:
        return []
    metric = "AUC" if found.ndcg is None else "nDCG@10"
    return [f"{precision} loses {loss:.4f} {metric} on {found.rows} rows, more than {MOST_LOSS}"]
