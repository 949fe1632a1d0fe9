"""Tensors to a file, one at a time: the safetensors format, its errors in our words.

The library's own writer makes a copy of everything before it writes; a model that fills half the memory would not
pass. Reading is the library's.
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
    """Writes named tensors, from whatever device; RbserveError when the disk does not take them."""
    _write(path, [(name, tensor, tensor.dtype) for name, tensor in tensors.items()], _itself, metadata)


def save_drawn(path: Path, tensors: Mapping[str, Tensor], seed: int) -> None:
    """Writes tensors in bf16, and random ones in the place of those that have a shape only (device "meta").

    Matrices are normal with a deviation of 0.02, scales of normalisations 1, biases 0. Whole numbers, such as those of
    words, are no weights and keep their type.
    """
    generator = torch.Generator().manual_seed(seed)

    def drawn(name: str, tensor: Tensor) -> Tensor:
        if not tensor.is_meta:
            return tensor.to(_drawn_type(tensor))
        made = torch.empty(tensor.shape, dtype=torch.bfloat16)
        if tensor.dim() > 1:
            return made.normal_(std=DRAWN_STD, generator=generator)
        return made.fill_(0.0 if name.endswith("bias") else 1.0)

    _write(path, [(name, tensor, _drawn_type(tensor)) for name, tensor in tensors.items()], drawn, None)


def _drawn_type(tensor: Tensor) -> torch.dtype:
    return torch.bfloat16 if tensor.is_floating_point() else tensor.dtype


def _itself(name: str, tensor: Tensor) -> Tensor:  # noqa: ARG001
    return tensor


def _write(
    path: Path,
    tensors: Iterable[tuple[str, Tensor, torch.dtype]],
    make: Callable[[str, Tensor], Tensor],
    metadata: dict[str, str] | None,
) -> None:
    """A header with the place of every tensor, then the tensors as `make` gives them in their turn."""
    # Wide types first: each then begins at a multiple of its own size, and can be mapped.
    ordered = sorted(tensors, key=lambda one: -one[2].itemsize)
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
                made = make(name, tensor.detach()).cpu().contiguous()
                made.reshape(-1).view(torch.uint8).numpy().tofile(file)
    except OSError as error:
        raise RbserveError(f"cannot write {path}: {error}", file_error(error).hint) from None
