"""Writes tensors to safetensors files, one at a time.

The library's own writer copies all tensors before it writes: a model that fills half of the memory could not be saved.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from rbserve.core.errors import RbserveError
from rbserve.core.files import file_error

_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
DRAWN_STD = 0.02


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes named tensors from any device; RbserveError if the file cannot be written."""
    _write(
        path,
        [(name, tensor, tensor.dtype) for name, tensor in tensors.items()],
        lambda _, tensor: tensor,
        metadata,
    )


def save_drawn(path: Path, tensors: Mapping[str, Tensor], seed: int) -> None:
    """Writes tensors in bf16, with random values for tensors that have a shape only (device "meta").

    Random matrices are normal with standard deviation DRAWN_STD, scales of normalisations 1, biases 0. Integers, such
    as the numbers of words, keep their type.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(name: str, tensor: Tensor) -> Tensor:
        if not tensor.is_meta:
            return tensor.to(_half_type(tensor))
        values = torch.empty(tensor.shape, dtype=torch.bfloat16)
        if tensor.dim() > 1:
            return values.normal_(std=DRAWN_STD, generator=generator)
        return values.fill_(0.0 if name.endswith("bias") else 1.0)

    _write(path, [(name, tensor, _half_type(tensor)) for name, tensor in tensors.items()], draw, None)


def _half_type(tensor: Tensor) -> torch.dtype:
    return torch.bfloat16 if tensor.is_floating_point() else tensor.dtype


def _write(
    path: Path,
    tensors: Iterable[tuple[str, Tensor, torch.dtype]],
    make: Callable[[str, Tensor], Tensor],
    metadata: dict[str, str] | None,
) -> None:
    """Writes a header with the offsets of all tensors, then each tensor as `make` returns it."""
    # Wide types first: each tensor then begins at a multiple of its type's size and can be memory-mapped.
    ordered = sorted(tensors, key=lambda entry: -entry[2].itemsize)
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, tensor, kind in ordered:
        begin, end = end, end + tensor.numel() * kind.itemsize
        header[name] = {"dtype": _TYPES[kind], "shape": [*tensor.shape], "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    try:
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name, tensor, _ in ordered:
                values = make(name, tensor.detach()).cpu().contiguous()
                values.reshape(-1).view(torch.uint8).numpy().tofile(file)
    except OSError as error:
        raise RbserveError(f"cannot write {path}: {error}", file_error(error).hint) from None
