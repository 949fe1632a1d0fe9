"""Memory is planned before it is taken: what a variant's weights need, held against what is free."""

from __future__ import annotations

import json
import math
from pathlib import Path

import psutil

from rbserve.core.errors import RbserveError
from rbserve.core.variants import find_variant, weights_size
from rbserve.data.artifact import WEIGHTS, Artifact

GIB = 1 << 30


def parameters(weights: Path) -> int:
    """How many numbers a safetensors file holds, by its header alone; 0 where the file is damaged."""
    try:
        with weights.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    except (OSError, ValueError, OverflowError, MemoryError):  # loading checks its digest, and tells
        return 0
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def needed(artifact: Artifact, variant: str) -> int:
    """Bytes that a variant's weights take in memory, exported already or not; activations and caches come on top."""
    if record := artifact.exported(variant):
        size = sum(artifact.manifest.files[name].bytes for name in record.files)
        return size * find_variant(variant).copies
    if WEIGHTS not in artifact.manifest.files:
        return 0
    return weights_size(variant, parameters(artifact.path / WEIGHTS))


def shortage(artifact: Artifact, variant: str) -> str | None:
    """How much memory is missing, where a variant's weights are larger than what is free without swapping."""
    size, free = needed(artifact, variant), psutil.virtual_memory().available
    return f"{in_gib(size)} of weights, {in_gib(free)} of memory are free" if size > free else None


def require_memory(artifact: Artifact, variant: str) -> None:
    """Raises RbserveError when there is a shortage, with the sizes and the variants that fit."""
    reason = shortage(artifact, variant)
    if reason is None:
        return
    smaller = [
        f"{name} ({in_gib(needed(artifact, name))})"
        for name in artifact.can_have
        if shortage(artifact, name) is None
    ]
    raise RbserveError(
        f"{artifact.name} {variant} does not fit into memory: {reason}",
        f"what fits: {', '.join(smaller)}" if smaller else "a smaller row, or a machine with more memory",
    )


def in_gib(size: int) -> str:
    """A number of bytes in GiB, such as `12.6 GiB`."""
    return f"{size / GIB:.1f} GiB"
