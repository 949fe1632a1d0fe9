"""The layers of a language model in its config of transformers: how many there are, and configs of some of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

DEPTHS = ("num_hidden_layers", "n_layers")
"""The names of the number of layers in configs of transformers."""
TYPES = "layer_types"
"""The name of the list in some configs that has an entry for each layer."""


def depth(config: Mapping[str, Any]) -> int:
    """The number of layers in a config of transformers."""
    return next(int(config[name]) for name in DEPTHS if name in config)


def shortened(config: Any, layers: int) -> Any:
    """transformers' `config` with its first `layers` layers; ValueError where it has fewer."""
    if layers > config.num_hidden_layers:
        raise ValueError(f"{config.num_hidden_layers} layers")
    return cut_config(config, range(layers))


def cut_config(config: Any, initial: Sequence[int]) -> Any:
    """transformers' config with the layers `initial` alone."""
    cut = copy.deepcopy(config)
    for name, value in cut_values(config.to_dict(), initial).items():
        setattr(cut, name, value)
    return cut


def cut_values(config: Mapping[str, Any], initial: Sequence[int]) -> dict[str, Any]:
    """The values, by name, that a config of transformers has of the layers `initial` alone."""
    values: dict[str, Any] = {name: len(initial) for name in DEPTHS if name in config}
    if config.get(TYPES):
        values[TYPES] = [config[TYPES][layer] for layer in initial]
    return values
