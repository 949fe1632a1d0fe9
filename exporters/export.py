"""Exports an artefact at the precisions asked for, and lets in only what scores like the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rbserve.core.artifact import Artifact, Parity, VariantRecord, add_variants
from rbserve.core.dataset import Dataset, check_same_data
from rbserve.core.errors import ParityError, UsageError, unknown_name
from rbserve.core.files import replacing, scratch
from rbserve.core.memory import require_memory
from rbserve.exporters import language, onnx, parity, sequential
from rbserve.exporters.graph import data_file
from rbserve.exporters.quantize import write_int8

PRECISIONS = ("fp32", "int8", "int4")
DEFAULT_PRECISIONS = ("fp32", "int8")
INT8_LOSS = 0.002

# Graphs in fp32, and how they are held against the reference.
Writer = Callable[[Artifact, Path], list[Path]]
WRITERS: dict[str, Writer] = {"ctr": onnx.write_fp32, "seqrec": sequential.write_fp32}
Quantiser = Callable[[Artifact, Path, Path], None]
QUANTISERS: dict[str, Quantiser] = {"int8": write_int8}


def export(artifact: Artifact, dataset: Dataset, precisions: Sequence[str] = DEFAULT_PRECISIONS) -> Artifact:
    """Writes the ONNX graphs of each precision and records their parity on real rows.

    Raises ParityError when fp32 differs from the reference by more than `parity` allows; an int8 variant that
    loses more than 0.002 of AUC or nDCG@10 on those rows is kept, with a warning that every table shows.
    """
    if artifact.is_endpoint:
        raise UsageError(f"{artifact.name} answers from an endpoint; there is nothing to export")
    for precision in precisions:
        if precision not in PRECISIONS:
            raise unknown_name("precision", precision, PRECISIONS)
        if f"onnx-{precision}" not in artifact.can_export:
            known = ", ".join(one.removeprefix("onnx-") for one in artifact.can_export)
            raise UsageError(
                f"{artifact.name} cannot be exported in {precision}",
                f"precisions of a model like it: {known}",
            )
        require_memory(artifact, f"onnx-{precision}")
    check_same_data(artifact.name, artifact.manifest.dataset.fingerprint, dataset)
    reference = parity.REFERENCES[artifact.manifest.task](artifact, dataset)
    with scratch(artifact.path.parent, f"{artifact.path.name}-export") as folder:
        made = _write(artifact, folder, list(dict.fromkeys(precisions)))
        records = {
            f"onnx-{precision}": _admit(artifact, precision, files, reference)
            for precision, files in made.items()
        }
    return add_variants(artifact, records)


def _write(artifact: Artifact, folder: Path, precisions: Sequence[str]) -> dict[str, list[Path]]:
    """The graphs of each precision, in the order in which they run."""
    if artifact.is_language_model:
        return {precision: language.write(artifact, folder, precision) for precision in precisions}
    fp32 = WRITERS[artifact.manifest.task](artifact, folder)
    return {
        precision: fp32 if precision == "fp32" else _quantised(artifact, fp32, precision)
        for precision in precisions
    }


def _quantised(artifact: Artifact, fp32: list[Path], precision: str) -> list[Path]:
    paths = [path.with_name(path.name.replace("fp32", precision, 1)) for path in fp32]
    for source, path in zip(fp32, paths, strict=True):
        QUANTISERS[precision](artifact, source, path)
    return paths


def _admit(
    artifact: Artifact, precision: str, made: list[Path], reference: parity.Reference
) -> VariantRecord:
    """Checks exported files and moves them into the artefact."""
    found = reference.compare(made)
    if precision == "fp32" and not reference.is_equal(found):
        raise ParityError(
            f"{artifact.name} onnx-fp32 differs from torch-fp32 on {found.rows} rows: {reference.describe(found)}",
            "nothing was written; the exported graph does not compute the model",
        )
    data = [weights for path in made if (weights := data_file(path)).exists()]
    for path in (*data, *made):
        with replacing(artifact.path / "onnx" / path.name) as partial:
            path.replace(partial)
    file, *step = [f"onnx/{path.name}" for path in made]
    return VariantRecord(
        file, found, _warnings(precision, found), step_file=step[0] if step else None,
        data_files=[f"onnx/{path.name}" for path in data],
    )  # fmt: skip


def _warnings(precision: str, found: Parity) -> list[str]:
    metric, loss = ("AUC", -(found.auc_difference or 0.0))
    if found.ndcg is not None and found.ndcg_reference is not None:
        metric, loss = "nDCG@10", found.ndcg_reference - found.ndcg
    if precision == "fp32" or loss <= INT8_LOSS:
        return []
    return [f"{precision} loses {loss:.4f} {metric} on {found.rows} rows, more than {INT8_LOSS}"]
