"""Tensors to a file: the safetensors format, its errors in our words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from rbserve.core.errors import RbserveError


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes named tensors, from whatever device; RbserveError when the disk does not take them."""
    try:
        save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, path, metadata)
    except SafetensorError as error:
        raise RbserveError(
            f"cannot write {path}: {error}", "free the disk, then run the command again"
        ) from None
