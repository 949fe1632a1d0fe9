"""Language models' layers made ready to be traced: attention in few nodes, and what the exporter cannot follow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from rbserve.exporters.quantize import DOMAIN
from rbserve.models.drivers import GROUPED, grouped_attention
from rbserve.models.part_attention import turned


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


def fused_rotary(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`part_attention.turned` as one of onnxruntime's operators, for graphs that have some of them anyway."""
    heads, width = int(states.size(1)), int(states.size(2))  # constants in a graph
    places = (torch.ones_like(cos[:, 0, 0], dtype=torch.int64).cumsum(0) - 1)[None]
    halves = (part[:, 0, : width // 2] for part in (cos, sin))
    together: Tensor = _FusedRotary.apply(  # type: ignore[no-untyped-call]
        states.reshape(1, -1, heads * width), places, *halves, heads, width
    )
    return together.reshape(-1, heads, width)


class _FusedRotary(torch.autograd.Function):
    """Rotary positions of states [1, L, H * C], by the cosines and sines [L, C / 2] of their pairs of numbers."""

    @staticmethod
    def forward(
        _: Any, states: Tensor, __: Tensor, cos: Tensor, sin: Tensor, heads: int, width: int
    ) -> Tensor:
        own = states[0].reshape(-1, heads, width)
        whole = (torch.cat((part, part), -1)[:, None] for part in (cos, sin))
        return turned(own, *whole).flatten(1)[None]

    @staticmethod
    def symbolic(graph: Any, states: Any, places: Any, cos: Any, sin: Any, heads: int, width: int) -> Any:
        """The node for the exporter."""
        node = graph.op(
            f"{DOMAIN}::RotaryEmbedding", states, places, cos, sin, interleaved_i=0, num_heads_i=heads
        )
        return node.setType(states.type().with_sizes([1, None, heads * width]))
