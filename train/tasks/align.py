"""Alignment: before training, tokens of items learn to be read by a language model's layers as their texts are.

The layers have never seen such tokens. Of each item they read its text, word by word, and then its tokens behind a
start; the two hidden states are held against each other. Only what tokens are made with is trained: the layers, and the
vectors of the texts, stay as they are.
Idea: alignment before distillation (MixLM, arXiv 2512.07846).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rbserve.core.types import ModelSpec, Progress
from rbserve.models.configs import LayersConfig
from rbserve.models.items import VectorItems
from rbserve.models.language_layers import LanguageLayers
from rbserve.models.rqvae_config import Pooling
from rbserve.train.encoders.embed import embed_texts
from rbserve.train.tasks.backbones import FirstLayers

BATCH = 256
RATE = 1e-3


def start_tokens(
    layers: LanguageLayers,
    first: FirstLayers,
    items: VectorItems,
    spec: ModelSpec,
    texts: Sequence[str],
    progress: Progress,
) -> None:
    """Draws what tokens are made with, to the size of the words that the layers know; then aligns, if asked."""
    layers.scale_tokens(first.deviation)
    if not spec.random:
        align(layers, items, texts, spec.config, progress)


def align(
    layers: LanguageLayers,
    items: VectorItems,
    texts: Sequence[str],
    config: LayersConfig,
    progress: Progress,
) -> list[float]:
    """Trains the tokens of items in place, `config.align` passes over their texts; the error of each pass.

    The error is the mean square of the difference of the states, each number brought to deviation 1 over the items: 1
    is that of saying the mean. Items are ordered by
    torch's generator.
    """
    if not config.align:
        return []
    pooling: Pooling = "last" if layers.causal else "mean"
    wanted = torch.from_numpy(
        embed_texts(texts, config.backbone, pooling, progress=progress, layers=config.layers)
    )
    deviation, center = torch.std_mean(wanted, dim=0, correction=0)
    scale = deviation.clamp(min=1e-6).reciprocal()
    known = torch.tensor([place for place, text in enumerate(texts) if text])
    learning = [
        weight
        for part in (items.hidden, items.projection, layers.token)
        if part is not None
        for weight in part.parameters()
    ] + [layers.start]
    optimizer = torch.optim.Adam(learning, lr=RATE)
    layers.eval()
    items.eval()  # vectors of a table, also where a tower makes them in training
    errors = []
    for number in range(config.align):
        total = 0.0
        for batch in known[torch.randperm(len(known))].split(BATCH):  # type: ignore[no-untyped-call]
            error = _error(layers, items, batch, (wanted[batch] - center) * scale, center, scale)
            gradients = torch.autograd.grad(error / len(batch), learning)
            for weight, gradient in zip(learning, gradients, strict=True):
                weight.grad = gradient
            optimizer.step()
            total += float(error.detach())
        errors.append(total / max(1, len(known)))
        progress(number + 1, config.align, f"passes of alignment, error {errors[-1]:.3f}")
    for weight in learning:
        weight.grad = None
    layers.train()
    items.train()
    return errors


def _error(
    layers: LanguageLayers, items: VectorItems, batch: Tensor, wanted: Tensor, center: Tensor, scale: Tensor
) -> Tensor:
    """The error summed over a batch of items."""
    states = (layers.states_of(items(batch)) - center) * scale
    return F.mse_loss(states, wanted, reduction="none").mean(1).sum()
