"""Memory is planned before it is taken: what a variant's weights need, held against what is free."""

from __future__ import annotations

import json
import math
from pathlib import Path

import psutil

from rbserve.core.artifact import HALF_VARIANT, REFERENCE_VARIANT, TORCH_VARIANTS, WEIGHTS, Artifact
from rbserve.core.errors import RbserveError

GIB = 1 << 30
BYTES = {REFERENCE_VARIANT: 4, HALF_VARIANT: 2}


def parameters(weights: Path) -> int:
    """How many numbers a safetensors file holds; its header alone is read."""
    with weights.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def needed(artifact: Artifact, variant: str) -> int:
    """Bytes that a variant's weights take in memory; activations and caches come on top."""
    if variant in TORCH_VARIANTS:
        return BYTES[variant] * parameters(artifact.path / WEIGHTS)
    return sum(artifact.manifest.files[name].bytes for name in artifact.variant_files(variant))


def fits(artifact: Artifact, variant: str) -> bool:
    """Whether there is free memory for a variant's weights."""
    return needed(artifact, variant) <= free()


def free() -> int:
    """Bytes that can be had without swapping."""
    return psutil.virtual_memory().available


def require_memory(artifact: Artifact, variant: str) -> None:
    """Raises RbserveError, with the sum, when a variant's weights are larger than the memory that is free."""
    if fits(artifact, variant):
        return
    smaller = [
        f"{one} ({in_gib(needed(artifact, one))})" for one in artifact.can_open if fits(artifact, one)
    ]
    raise RbserveError(
        f"{artifact.name} {variant} takes {in_gib(needed(artifact, variant))} of weights; {in_gib(free())} are free",
        f"what fits: {', '.join(smaller)}" if smaller else "rbserve export --precision int4 makes it smaller",
    )


def in_gib(size: int) -> str:
    """`12.6 GiB`"""
    return f"{size / GIB:.1f} GiB"
