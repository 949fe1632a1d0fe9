"""Matrix products of language models in 8 bits, with a scale for each token and output, and a plan of their use.

x W is computed as (round(x / s / t) @ round(s W / w)) * t * w, where t is a scale for each token, w one for each
output, and s one for each input feature, fixed at export (SmoothQuant, Xiao et al. 2023). Language models have a few
features a hundred times as large as the others; s moves part of their size into the weight. A plan made on real
prompts says how much, and which products keep their activations in blocks (`quantise_blocks`: slower).

The operators are onnxruntime's. Sums of integers are exact, so scores do not depend on the order of summation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rbserve.exporters.quantize import (
    DOMAIN,
    LEVELS,
    MIDDLE,
    ONE,
    SEVEN_BITS,
    quantise_outputs,
    round_matrix,
    round_rows,
)

if TYPE_CHECKING:
    from onnx import NodeProto

Array = NDArray[Any]

SAMPLED = 64  # activations of each product that a plan is made from
SHARES = (0.0, 0.3, 0.5, 0.7, 0.85)
"""Exponents to choose from: the share of a feature's size that moves into the weight."""
MOST_ERRORS = (0.03, 0.018, 0.0)
"""Limits of the relative error of a product rounded by token, tried in turn until the scores are close enough."""


class Rounding(NamedTuple):
    """How a product is rounded: its input is divided by `smooth` float32[K] (None: by 1), at a relative `error`."""

    smooth: Array | None
    error: float


Plan = Mapping[str, Rounding]
"""The products that are rounded by token, by the name of the layer's weight. Layers of one input share `smooth`."""


def plan_within(plan: Plan, most: float) -> dict[str, Rounding]:
    """The products of a plan whose error is at most `most`, root mean square relative to the product."""
    return {name: rounding for name, rounding in plan.items() if rounding.error <= most}


class Recorder:
    """Records inputs of each linear layer while a model runs: sampled rows, and the largest value of each feature."""

    def __init__(self, model: nn.Module, seed: int = 0) -> None:
        self._layers = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}
        self._inputs: dict[str, Tensor] = {}
        self._largest: dict[str, Tensor] = {}
        self._rows: dict[str, list[Tensor]] = {}
        self._random = torch.Generator().manual_seed(seed)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Records what the model computes inside the context."""
        handles = [layer.register_forward_pre_hook(self._hook(name)) for name, layer in self._layers.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            rows = inputs[0].detach().reshape(-1, inputs[0].size(-1)).float()
            self._inputs[name] = inputs[0]
            largest = rows.abs().amax(0)
            self._largest[name] = torch.maximum(self._largest.get(name, largest), largest)
            chosen = torch.randperm(len(rows), generator=self._random)[: max(1, SAMPLED // 8)]
            self._rows.setdefault(name, []).append(rows[chosen])

        return hook

    def plan(self) -> dict[str, Rounding]:
        """The rounding of each layer that ran, by the name of its weight."""
        roundings: dict[str, Rounding] = {}
        for names in self._layers_by_input():
            weights = [self._layers[name].weight.detach().float() for name in names]
            rows = torch.cat(self._rows[names[0]])
            rows = rows[torch.randperm(len(rows), generator=self._random)[:SAMPLED]]
            smooth, errors = _best_smoothing(rows, weights, self._largest[names[0]])
            for name, error in zip(names, errors, strict=True):
                roundings[f"{name}.weight"] = Rounding(smooth, error)
        return roundings

    def _layers_by_input(self) -> list[list[str]]:
        """The names of the layers, those of one and the same input tensor together."""
        groups: dict[int, list[str]] = {}
        for name, tensor in self._inputs.items():
            groups.setdefault(id(tensor), []).append(name)
        return list(groups.values())


def _best_smoothing(
    rows: Tensor, weights: Sequence[Tensor], largest: Tensor
) -> tuple[Array | None, list[float]]:
    """The scales [K] of the features with the least error for rows [R, K] and each weight [N, K], and the errors.

    None where the scales are all 1.
    """
    of_weights = torch.stack([weight.abs().amax(0) for weight in weights]).amax(0).clamp(min=1e-5)
    candidates: list[tuple[float, Tensor, list[float]]] = []
    sizes = largest.clamp(min=1e-5)
    for share in SHARES:
        smooth = sizes**share / of_weights ** (1 - share) if share else torch.ones_like(sizes)
        smooth = smooth / smooth.log().mean().exp()
        errors = [_error(rows, weight, smooth) for weight in weights]
        candidates.append((sum(errors), smooth, errors))
    _, smooth, errors = min(candidates, key=lambda candidate: candidate[0])
    return None if bool((smooth == 1).all()) else smooth.numpy(), errors


def _error(rows: Tensor, weight: Tensor, smooth: Tensor) -> float:
    """The root mean square error of rows @ weight.T after rounding, relative to the product."""
    exact = rows @ weight.T
    smooth_rows, scaled_weight = rows / smooth, weight * smooth
    token = smooth_rows.abs().amax(1, keepdim=True).clamp(min=1e-9) / LEVELS
    output = scaled_weight.abs().amax(1, keepdim=True).clamp(min=1e-9) / SEVEN_BITS
    rounded = ((smooth_rows / token).round() * token) @ ((scaled_weight / output).round() * output).T
    return float((rounded - exact).norm() / exact.norm().clamp(min=1e-9))


class TokenwiseProducts:
    """The nodes of products that have a scale for each token; an input of several products is rounded once."""

    def __init__(self, add: Callable[[str, Array], None], flat: bool = False) -> None:
        """`add` adds a tensor to the graph, once for each name. `flat`: all inputs of products are matrices."""
        self._add, self._round = add, round_matrix if flat else round_rows
        self._rounded: dict[str, tuple[Array | None, str]] = {}
        self._pending: dict[str, list[NodeProto]] = {}  # by the name of the rounded input

    def nodes(self, product: NodeProto, name: str, weight: Array, smooth: Array | None) -> list[NodeProto]:
        """The nodes that replace a product with a weight [K, N] of this name, without its bias.

        The nodes that round its input are added by `ordered`.
        """
        from onnx import helper

        source, output = product.input[0], product.output[0]
        if source not in self._rounded or self._rounded[source][0] is not smooth:
            prefix = f"{source}.tokens" if source not in self._rounded else f"{source}.{name}.tokens"
            self._pending[f"{prefix}.int8"] = self._rounding(source, prefix, smooth)
            self._rounded[source] = smooth, prefix
        prefix = self._rounded[source][1]
        whole, scales = quantise_outputs(weight if smooth is None else weight * smooth[:, None])
        self._add(f"{name}.int8", whole)
        self._add(f"{name}.outputs", scales)
        sums = f"{output}.sums"
        return [
            helper.make_node(
                "MatMulIntegerToFloat", [f"{prefix}.int8", f"{name}.int8", ONE, f"{name}.outputs", MIDDLE],
                [sums], domain=DOMAIN, name=f"{product.name}.int8"),
            helper.make_node("Mul", [sums, f"{prefix}.scale"], [output]),
        ]  # fmt: skip

    def ordered(self, nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
        """The nodes of a graph, with those that round an input inserted before the first product that takes it."""
        for node in nodes:
            for name in node.input:
                yield from self._pending.pop(name, ())
            yield node

    def _rounding(self, source: str, prefix: str, smooth: Array | None) -> list[NodeProto]:
        """The nodes that smooth and round the activation `source`."""
        from onnx import helper

        if smooth is None:
            return self._round(source, prefix, self._add)
        self._add(f"{prefix}.smooth", (1 / smooth).astype(np.float32))
        moved = f"{prefix}.moved"
        smoothing = helper.make_node("Mul", [source, f"{prefix}.smooth"], [moved])
        return [smoothing, *self._round(moved, prefix, self._add)]


def merge_scales(nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """The nodes without the scaling of a product by token where it only scales what the next product rounds.

    A gated MLP multiplies one product's output by another's, and the result is rounded by token: its integers are the
    same without the scale, which the scale of the result takes instead.
    """
    from onnx import helper

    takers: dict[str, list[NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            takers.setdefault(name, []).append(node)
    sums = {node.output[0] for node in nodes if node.op_type == "MatMulIntegerToFloat"}
    replaced: dict[int, list[NodeProto]] = {}
    for scaling in nodes:
        if scaling.op_type != "Mul" or scaling.input[0] not in sums:
            continue
        match takers.get(scaling.output[0], []):
            case [gating] if gating.op_type == "Mul" and (rounding := _rounding_of(gating.output[0], takers)):
                place = list(gating.input).index(scaling.output[0])
                gating.input[place] = scaling.input[0]
                own = f"{rounding.output[0]}.own"
                for taker in takers[rounding.output[0]]:
                    if taker.op_type != "Squeeze":
                        continue
                    taker.input[0] = own
                replaced[id(scaling)] = []
                whole = rounding.output[0]
                rounding.output[0] = own
                replaced[id(rounding)] = [rounding, helper.make_node("Mul", [own, scaling.input[1]], [whole])]
    return [new for node in nodes for new in replaced.get(id(node), [node])]


def _rounding_of(name: str, takers: Mapping[str, Sequence[NodeProto]]) -> NodeProto | None:
    """The node that computes the scale of an activation [rows, K] that is only rounded; None of any other."""
    own = takers.get(name, [])
    if len(own) == 1 and own[0].op_type == "Mul":  # smoothed first
        own = takers.get(own[0].output[0], [])
    if sorted(node.op_type for node in own) != ["QuantizeLinear", "ReduceMax", "ReduceMin"]:
        return None
    largest = next(node for node in own if node.op_type == "ReduceMax")
    (above,) = takers[largest.output[0]]
    return next(node for node in takers[above.output[0]] if node.op_type == "Div")
