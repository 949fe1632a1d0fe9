"""Language models' layers made ready to be traced: attention in few nodes, and what the exporter cannot follow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from rbserve.models.drivers import GROUPED, grouped_attention


@contextmanager
def traceable(model: nn.Module) -> Iterator[None]:
    """While it lasts, models of transformers inside `model` compute attention by `grouped_attention`.

    `Tensor.repeat_interleave`, of which the exporter loses the rank (GLM's positions), is replaced.
    """
    AttentionInterface.register(GROUPED, grouped_attention)
    configs: list[Any] = [part.config for part in _outermost(model)]
    before = [config._attn_implementation for config in configs]
    original = torch.Tensor.repeat_interleave
    torch.Tensor.repeat_interleave = _repeated  # type: ignore[assignment,method-assign]
    for config in configs:
        config._attn_implementation = GROUPED
    try:
        yield
    finally:
        torch.Tensor.repeat_interleave = original  # type: ignore[method-assign]
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation = implementation


def _outermost(model: nn.Module) -> Iterator[PreTrainedModel]:
    """The models of transformers inside `model`, but none inside another (T5's encoder and decoder)."""
    if isinstance(model, PreTrainedModel):
        yield model
        return
    for part in model.children():
        yield from _outermost(part)


def _repeated(tensor: Tensor, repeats: int, dim: int) -> Tensor:
    assert dim == -1
    return tensor.unsqueeze(-1).expand(*tensor.shape, repeats).flatten(-2)
