"""Tensors to a file: what the library reads is what was written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from rbserve.core.errors import RbserveError
from rbserve.train.fitting.tensors import save_drawn, save_tensors

TENSORS = {
    "flags": torch.tensor([True, False, True]),
    "bytes": torch.arange(5, dtype=torch.uint8),
    "halves": torch.randn(9).bfloat16(),
    "matrix": torch.randn(3, 5),
    "turned": torch.randn(4, 6).T,
    "numbers": torch.arange(7),
    "nothing": torch.zeros(0, 4),
    "scalar": torch.tensor(2.5),
    "wide": torch.randn(3, dtype=torch.float64),
}


def test_the_library_reads_what_was_written(tmp_path: Path) -> None:
    save_tensors(tmp_path / "tensors", TENSORS, {"state": "{}"})
    read = load_file(tmp_path / "tensors")
    assert read.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor), name
    with safe_open(tmp_path / "tensors", framework="pt") as file:
        assert file.metadata() == {"state": "{}"}


def test_drawn_tensors_are_those_of_the_seed_and_kept_ones_are_kept(tmp_path: Path) -> None:
    shapes = {
        "layer.weight": torch.empty(300, 200, device="meta"),
        "norm.weight": torch.empty(8, device="meta"),
        "layer.bias": torch.empty(8, device="meta"),
        "known": torch.ones(2, 2) * 3,
        "offsets": torch.tensor([0, 1, 300]),
    }
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        save_drawn(tmp_path / name, shapes, seed)
    a, b, c = (load_file(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in shapes)
    assert not torch.equal(a["layer.weight"], c["layer.weight"])
    assert a["layer.weight"].float().std() == pytest.approx(0.02, rel=0.05)
    assert torch.equal(a["norm.weight"], torch.ones(8).bfloat16())
    assert torch.equal(a["layer.bias"], torch.zeros(8).bfloat16())
    assert torch.equal(a["known"], torch.full((2, 2), 3.0).bfloat16())
    assert torch.equal(a["offsets"], shapes["offsets"]), "whole numbers are no weights"


def test_a_full_disk_is_one_line() -> None:
    with pytest.raises(RbserveError, match="cannot write /dev/full"):
        save_tensors(Path("/dev/full"), TENSORS)
