"""Memory is planned before it is taken: what a variant's weights need, held against what is free."""

from __future__ import annotations

import json
import math
from pathlib import Path

import psutil

from rbserve.core.errors import RbserveError
from rbserve.data.artifact import (
    HALF_VARIANT,
    OPENVINO_VARIANT,
    PROTOCOL_VARIANT,
    REFERENCE_VARIANT,
    TORCH_VARIANTS,
    WEIGHTS,
    Artifact,
)

GIB = 1 << 30
OPENVINO_COPIES = 2  # of the fp32 weights at the worst moment, while it loads them
# Bytes of a weight, at most. In 4 bits there is a scale of 4 bytes for each 32, in 8 for as many or more; what is not
# multiplied stays larger.
BYTES = {
    REFERENCE_VARIANT: 4.0,
    HALF_VARIANT: 2.0,
    PROTOCOL_VARIANT: 4.0,
    "onnx-fp32": 4.0,
    "onnx-int8": 1.125,
    "onnx-int4": 0.625,
    OPENVINO_VARIANT: 4.0 * OPENVINO_COPIES,
}


def parameters(weights: Path) -> int:
    """How many numbers a safetensors file holds; its header alone is read. A damaged one is known to hold none."""
    try:
        with weights.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    except (
        OSError,
        ValueError,
        OverflowError,
        MemoryError,
    ):  # who loads it holds it against its digest, and says so
        return 0
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def needed(artifact: Artifact, variant: str) -> int:
    """Bytes that a variant's weights take in memory, to be made or there; activations and caches come on top."""
    files = [] if variant in TORCH_VARIANTS else artifact.variant_files(variant)
    if files or WEIGHTS not in artifact.manifest.files:
        size = sum(artifact.manifest.files[name].bytes for name in files)
        return size * OPENVINO_COPIES if variant == OPENVINO_VARIANT else size
    return int(BYTES[variant] * parameters(artifact.path / WEIGHTS))


def shortage(artifact: Artifact, variant: str) -> str | None:
    """The sum, where a variant's weights are larger than the memory that can be had without swapping."""
    wanted, free = needed(artifact, variant), psutil.virtual_memory().available
    return f"{in_gib(wanted)} of weights, {in_gib(free)} of memory are free" if wanted > free else None


def require_memory(artifact: Artifact, variant: str) -> None:
    """Raises RbserveError, with the sum and what fits, when there is a shortage."""
    reason = shortage(artifact, variant)
    if reason is None:
        return
    smaller = [
        f"{one} ({in_gib(needed(artifact, one))})"
        for one in BYTES
        if one in artifact.can_have and shortage(artifact, one) is None
    ]
    raise RbserveError(
        f"{artifact.name} {variant} does not fit into memory: {reason}",
        f"what fits: {', '.join(smaller)}" if smaller else "a smaller row, or a machine with more memory",
    )


def in_gib(size: int) -> str:
    """`12.6 GiB`"""
    return f"{size / GIB:.1f} GiB"
