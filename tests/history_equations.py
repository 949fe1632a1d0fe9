"""The published definitions of the models that read a history item by item, in NumPy loops: the logit of one row.

`h` [T, d] are the history's items, oldest first; `t` is the candidate.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from equations import Array, Weights, hidden, layer_norm, linear, relu, sigmoid, softmax

from rbserve.models.configs import BstEmbConfig, DinEmbConfig, HstuEmbConfig, LayeredHistoryConfig

SMALL: dict[str, Any] = {"dim": 4, "hidden": (10, 8, 6), "dropout": 0.2, "max_history": 6}
LAYERED: dict[str, Any] = SMALL | {"layers": 3, "heads": 2}


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def head(w: Weights, u: Array, t: Array, s: Array) -> Array:
    return linear(w, "output", hidden(w, "deep", np.concatenate([u, t, s, u * t])))


def din(w: Weights, config: DinEmbConfig, h: Array, t: Array) -> Array:
    """Zhou et al. (2018), eq. 3, with [t; h; t - h; t * h] written out: the weights of t - h are chosen, not learnt."""
    of_difference = np.random.default_rng(1).normal(size=w["of_item.weight"].shape)
    first = [
        w["of_candidate.weight"] - of_difference, w["of_item.weight"] + of_difference,
        of_difference, w["of_product.weight"],
    ]  # fmt: skip
    strengths = []
    for item in h:
        x = relu(np.hstack(first) @ np.concatenate([t, item, t - item, t * item]) + w["of_candidate.bias"])
        for layer in range(len(config.attention_hidden) - 1):
            x = relu(linear(w, f"unit.1.{3 * layer}", x))
        strengths.append(linear(w, "unit.2", x)[0])
    weights = softmax(np.array(strengths)) if config.softmax and len(h) else strengths
    found = sum((a * item for a, item in zip(weights, h, strict=True)), start=np.zeros_like(t))
    return head(w, h.sum(axis=0) / max(len(h), 1), t, found)


def sequence(w: Weights, config: LayeredHistoryConfig, h: Array, t: Array) -> tuple[list[Array], int]:
    """[start, history, candidate], and how many places of the longest sequence are before it."""
    recent = h[max(len(h) - config.max_history, 0) :]
    return [w["start"], *recent, t], config.max_history - len(recent)


def read(w: Weights, h: list[Array]) -> Array:
    user, found = (layer_norm(w, "norm", h[place]) for place in (-2, -1))
    return np.concatenate([user, found])


def bst(w: Weights, config: BstEmbConfig, h: Array, t: Array) -> Array:
    """Chen et al. (2019): a transformer over the sequence that ends with the candidate; here pre-norm and causal."""
    tokens, before = sequence(w, config, h, t)
    x = [token + w["positions"][before + place] for place, token in enumerate(tokens)]
    for layer in range(config.layers):
        x = [self_attention(w, f"layers.{layer}", config.heads, x[: place + 1]) for place in range(len(x))]
    user, found = np.split(read(w, x), 2)
    return head(w, user, t, found)


def self_attention(w: Weights, name: str, heads: int, x: list[Array]) -> Array:
    """The output at the last of the places x, which it and those before it are looked at from."""
    joint = [
        np.split(linear(w, f"{name}.query_key_value", layer_norm(w, f"{name}.norm", one)), 3) for one in x
    ]
    mixed = []
    for number in range(heads):
        query = np.split(joint[-1][0], heads)[number]
        keys = [np.split(key, heads)[number] for _, key, _ in joint]
        values = [np.split(value, heads)[number] for _, _, value in joint]
        weights = softmax(np.array([query @ key / np.sqrt(len(query)) for key in keys]))
        mixed.append(sum(weight * value for weight, value in zip(weights, values, strict=True)))
    out = x[-1] + linear(w, f"{name}.attended", np.concatenate(mixed))
    inner = relu(linear(w, f"{name}.up", layer_norm(w, f"{name}.mlp_norm", out)))
    return np.asarray(out + linear(w, f"{name}.down", inner))


def hstu(w: Weights, config: HstuEmbConfig, h: Array, t: Array) -> Array:
    """Zhai et al. (2024), eqs. 1 to 3, with the authors' norm before each layer."""
    x, _ = sequence(w, config, h, t)
    for layer in range(config.layers):
        x = [transduction(w, f"layers.{layer}", config, x[: place + 1]) for place in range(len(x))]
    user, found = np.split(read(w, x), 2)
    return head(w, user, t, found)


def transduction(w: Weights, name: str, config: HstuEmbConfig, x: list[Array]) -> Array:
    """The output at the last of the places x."""
    joint = [
        np.split(silu(linear(w, f"{name}.gate_value_query_key", layer_norm(w, f"{name}.norm", one))), 4)
        for one in x
    ]
    places = config.max_history + 2
    mixed = []
    for number in range(config.heads):
        gate, values, query, keys = (
            [np.split(parts[kind], config.heads)[number] for parts in joint] for kind in range(4)
        )
        del gate
        total = np.zeros_like(values[0])
        for j, (value, key) in enumerate(zip(values, keys, strict=True)):
            distance = len(x) - 1 - j
            total += silu(query[-1] @ key + w[f"{name}.bias"][places - 1 - distance]) * value / places
        mixed.append(total)
    normed = layer_norm(w, f"{name}.mixed_norm", np.concatenate(mixed))
    return np.asarray(x[-1] + linear(w, f"{name}.output", normed * joint[-1][0]))


HISTORY_CASES: dict[str, Any] = {
    "din": (DinEmbConfig(**SMALL, attention_hidden=(5, 3)), din),
    "din-softmax": (DinEmbConfig(**SMALL, attention_hidden=(5,), softmax=True), din),
    "bst": (BstEmbConfig(**LAYERED), bst),
    "hstu": (HstuEmbConfig(**LAYERED), hstu),
}
"""A config and its definition, by name."""
