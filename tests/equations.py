"""What the published definitions of models are written with in tests: NumPy, one row and one loop at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = dict[str, Array]


def linear(w: Weights, name: str, x: Array) -> Array:
    """W x + b of a Linear, or of a PairLinear on the concatenation it never makes."""
    if f"{name}.left.weight" in w:
        weight = np.hstack([w[f"{name}.left.weight"], w[f"{name}.right.weight"]])
        return weight @ x + w[f"{name}.right.bias"]
    return w[f"{name}.weight"] @ x + w.get(f"{name}.bias", np.zeros(1))


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def softmax(x: Array) -> Array:
    return np.asarray(np.exp(x) / np.exp(x).sum())


def layer_norm(w: Weights, name: str, x: Array) -> Array:
    normal: Array = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    return normal * w[f"{name}.weight"] + w[f"{name}.bias"]


def hidden(w: Weights, name: str, x: Array) -> Array:
    """An MLP's three hidden layers, however the module names them."""
    pair = [f"{name}.first", f"{name}.rest.0", f"{name}.rest.3"]
    plain = [f"{name}.0", f"{name}.3", f"{name}.6"]
    for layer in pair if f"{name}.first.left.weight" in w else plain:
        x = relu(linear(w, layer, x))
    return x
