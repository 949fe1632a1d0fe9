"""Products of language models in 8 bits: a scale for each token and output, and a plan for what that would spoil.

x W is computed as (round(x / s / t) @ round(s W / w)) * t * w, where t is a scale for each token, w one for each
output, and s one for each input feature, fixed beforehand (SmoothQuant, Xiao et al. 2023). Language models have a few
features a hundred times as large as the others; s moves part of their size into the weight. How much, and which
products had better keep their activations in blocks (`quantise_blocks`: slower), is planned on real prompts.

The operators are onnxruntime's; sums of integers are exact, so that scores do not depend on the order they are made in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rbserve.exporters.quantize import DOMAIN, LEVELS, SEVEN_BITS, quantise_outputs, round_rows

if TYPE_CHECKING:
    from onnx import NodeProto

Array = NDArray[Any]

SAMPLED = 64  # activations of each product that a plan is made on
# How much of a feature's size may go into the weight: exponents that are tried.
SHARES = (0.0, 0.3, 0.5, 0.7, 0.85)
# What rounding may add to a product, as a part of it: tried until scores hold.
MOST_ERRORS = (0.03, 0.018, 0.0)


class Rounding(NamedTuple):
    """How a product is rounded: its input is divided by `smooth` float32[K] (None: by 1); `error` is what that adds."""

    smooth: Array | None
    error: float


Plan = Mapping[str, Rounding]
"""By the name of a linear layer's weight, products that are rounded by token. Layers of one input share `smooth`."""


def within(plan: Plan, most: float) -> dict[str, Rounding]:
    """What of a plan has no larger error, root mean square relative to the product; the rest is left to blocks."""
    return {name: rounding for name, rounding in plan.items() if rounding.error <= most}


class Recorder:
    """Keeps some of what each linear layer of a model is given while it runs, and the size of every feature."""

    def __init__(self, model: nn.Module, seed: int = 0) -> None:
        self._layers = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}
        self._inputs: dict[str, Tensor] = {}
        self._largest: dict[str, Tensor] = {}
        self._rows: dict[str, list[Tensor]] = {}
        self._drawn = torch.Generator().manual_seed(seed)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, the model is run on what it is meant for."""
        handles = [layer.register_forward_pre_hook(self._hook(name)) for name, layer in self._layers.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, given: tuple[Any, ...]) -> None:
            rows = given[0].detach().reshape(-1, given[0].size(-1)).float()
            self._inputs[name] = given[0]
            largest = rows.abs().amax(0)
            self._largest[name] = torch.maximum(self._largest.get(name, largest), largest)
            chosen = torch.randperm(len(rows), generator=self._drawn)[: max(1, SAMPLED // 8)]
            self._rows.setdefault(name, []).append(rows[chosen])

        return hook

    def plan(self) -> dict[str, Rounding]:
        """The rounding of each layer that ran."""
        made: dict[str, Rounding] = {}
        for names in self._sharing():
            weights = [self._layers[name].weight.detach().float() for name in names]
            rows = torch.cat(self._rows[names[0]])
            rows = rows[torch.randperm(len(rows), generator=self._drawn)[:SAMPLED]]
            smooth, errors = _best(rows, weights, self._largest[names[0]])
            for name, error in zip(names, errors, strict=True):
                made[f"{name}.weight"] = Rounding(smooth, error)
        return made

    def _sharing(self) -> list[list[str]]:
        """Layers that were given the very same tensor, by the name of the first."""
        groups: dict[int, list[str]] = {}
        for name, given in self._inputs.items():
            groups.setdefault(id(given), []).append(name)
        return list(groups.values())


def _best(rows: Tensor, weights: Sequence[Tensor], largest: Tensor) -> tuple[Array | None, list[float]]:
    """The features' scales of the least error for rows [R, K] and weights [N, K] each, and the errors."""
    of_weights = torch.stack([weight.abs().amax(0) for weight in weights]).amax(0).clamp(min=1e-5)
    found: list[tuple[float, Tensor, list[float]]] = []
    sizes = largest.clamp(min=1e-5)
    for share in SHARES:
        smooth = sizes**share / of_weights ** (1 - share) if share else torch.ones_like(sizes)
        smooth = smooth / smooth.log().mean().exp()
        errors = [_error(rows, weight, smooth) for weight in weights]
        found.append((sum(errors), smooth, errors))
    _, smooth, errors = min(found, key=lambda one: one[0])
    return None if bool((smooth == 1).all()) else smooth.numpy(), errors


def _error(rows: Tensor, weight: Tensor, smooth: Tensor) -> float:
    """Root mean square of what rounding adds to rows @ weight.T, relative to the product."""
    exact = rows @ weight.T
    moved, turned = rows / smooth, weight * smooth
    token = moved.abs().amax(1, keepdim=True).clamp(min=1e-9) / LEVELS
    output = turned.abs().amax(1, keepdim=True).clamp(min=1e-9) / SEVEN_BITS
    rounded = ((moved / token).round() * token) @ ((turned / output).round() * output).T
    return float((rounded - exact).norm() / exact.norm().clamp(min=1e-9))


class TokenwiseProducts:
    """The nodes that compute products with tokens' own scales; an input that several take is rounded once."""

    def __init__(self, add: Callable[[str, Array], None]) -> None:
        """`add` gives the graph a tensor, once for each name."""
        self._add = add
        self._rounded: dict[str, tuple[Array | None, str]] = {}
        self._pending: dict[str, list[NodeProto]] = {}  # by the name of what they round

    def nodes(self, product: NodeProto, name: str, weight: Array, smooth: Array | None) -> list[NodeProto]:
        """In the place of a product with a weight [K, N] of this name, without its bias: `product.output[0]`.

        What rounds its input is not among them; see `ordered`.
        """
        from onnx import helper

        given, output = product.input[0], product.output[0]
        if given not in self._rounded or self._rounded[given][0] is not smooth:
            prefix = f"{given}.tokens" if given not in self._rounded else f"{given}.{name}.tokens"
            self._pending[f"{prefix}.int8"] = self._rounding(given, prefix, smooth)
            self._rounded[given] = smooth, prefix
        prefix = self._rounded[given][1]
        whole, scales = quantise_outputs(weight if smooth is None else weight * smooth[:, None])
        self._add(f"{name}.int8", whole)
        self._add(f"{name}.outputs", scales)
        sums = f"{output}.sums"
        return [
            helper.make_node(
                "MatMulIntegerToFloat", [f"{prefix}.int8", f"{name}.int8", "one", f"{name}.outputs", "zero_point"],
                [sums], domain=DOMAIN, name=f"{product.name}.int8"),
            helper.make_node("Mul", [sums, f"{prefix}.scale"], [output]),
        ]  # fmt: skip

    def ordered(self, nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
        """A graph's nodes, those that round an input before the first that takes it."""
        for node in nodes:
            for name in node.input:
                yield from self._pending.pop(name, ())
            yield node

    def _rounding(self, given: str, prefix: str, smooth: Array | None) -> list[NodeProto]:
        from onnx import helper

        made, moved = [], given
        if smooth is not None:
            self._add(f"{prefix}.smooth", (1 / smooth).astype(np.float32))
            moved = f"{prefix}.moved"
            made.append(helper.make_node("Mul", [given, f"{prefix}.smooth"], [moved]))
        return [*made, *round_rows(moved, prefix, self._add)]
