"""Exports an artefact at the precisions asked for, and lets in only what scores like the reference."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from rbserve.core.artifact import (
    REFERENCE_VARIANT,
    Artifact,
    Parity,
    VariantRecord,
    add_variants,
)
from rbserve.core.dataset import CtrSplit, Dataset, check_same_data
from rbserve.core.errors import ParityError, unknown_name
from rbserve.core.files import replacing
from rbserve.core.types import Scores
from rbserve.exporters.onnx import write_fp32
from rbserve.exporters.parity import compare, sample
from rbserve.exporters.quantize import write_int8
from rbserve.runtime import OnnxScorer, open_scorer, score_rows

PRECISIONS = ("fp32", "int8")
PARITY_ROWS = 1_000
FP32_TOLERANCE = 1e-5
INT8_AUC_LOSS = 0.002
SEED = 2024


def export(artifact: Artifact, dataset: Dataset, precisions: Sequence[str] = PRECISIONS) -> Artifact:
    """Writes onnx/<precision>.onnx for each precision and records its parity on 1,000 real rows.

    Raises ParityError when fp32 differs from the reference by more than 1e-5; an int8 variant that loses
    more than 0.002 AUC on those rows is kept, with a warning that every table shows.
    """
    for precision in precisions:
        if precision not in PRECISIONS:
            raise unknown_name("precision", precision, PRECISIONS)
    check_same_data(artifact.name, artifact.manifest.dataset.fingerprint, dataset)
    rows = sample(dataset.ctr("test"), PARITY_ROWS, SEED)
    reference = score_rows(open_scorer(artifact, REFERENCE_VARIANT), rows.histories, rows.candidates)
    records: dict[str, VariantRecord] = {}
    with tempfile.TemporaryDirectory(prefix="rbserve-export-") as folder:
        fp32 = Path(folder) / "fp32.onnx"
        write_fp32(artifact, fp32)
        for precision in dict.fromkeys(precisions):
            made = fp32 if precision == "fp32" else Path(folder) / f"{precision}.onnx"
            if made != fp32:
                WRITERS[precision](artifact, fp32, made)
            records[f"onnx-{precision}"] = _admit(artifact, precision, made, rows, reference)
    return add_variants(artifact, records)


WRITERS: dict[str, Callable[[Artifact, Path, Path], None]] = {"int8": write_int8}


def _admit(
    artifact: Artifact, precision: str, made: Path, rows: CtrSplit, reference: Scores
) -> VariantRecord:
    """Checks an exported file and moves it into the artefact."""
    scores = score_rows(OnnxScorer(made, threads=1), rows.histories, rows.candidates)
    parity = compare(reference, scores, rows.labels)
    if precision == "fp32" and not parity.max_abs <= FP32_TOLERANCE:
        raise ParityError(
            f"{artifact.name} onnx-fp32 differs from {REFERENCE_VARIANT} by {parity.max_abs:.2e} on {parity.rows} "
            f"rows, more than {FP32_TOLERANCE:.0e}",
            "nothing was written; the exported graph does not compute the model",
        )
    name = f"onnx/{precision}.onnx"
    with replacing(artifact.path / name) as partial:
        shutil.copyfile(made, partial)
    return VariantRecord(name, parity, _warnings(precision, parity))


def _warnings(precision: str, parity: Parity) -> list[str]:
    loss = -(parity.auc_difference or 0.0)
    if precision == "fp32" or loss <= INT8_AUC_LOSS:
        return []
    return [f"{precision} loses {loss:.4f} AUC on {parity.rows} rows, more than {INT8_AUC_LOSS}"]
