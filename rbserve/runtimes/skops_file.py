"""Models of scikit-learn in skops files: read without pickle, and only types that skops or this module trusts.

skops does not trust trees, because scikit-learn follows the node numbers of a file without checking them. Here they are
checked once the file is read: every branch leads to later nodes of its tree and asks for a feature that the model has.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

_TREE, _HISTOGRAM_TREE = (
    "sklearn.tree._tree.Tree",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
)
CHECKED = (_TREE, _HISTOGRAM_TREE)
"""Types whose content is checked once a file is read."""
HARMLESS = (
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.utils._bunch.Bunch",
)
"""Parts of estimators, in plain Python, which skops leaves out of those that it trusts."""


class UntrustedTypes(ValueError):  # noqa: N818  (what they are)
    """Types in a skops file that could run code or read foreign memory; `names` are those."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(f"it holds types that are not trusted: {', '.join(names)}")
        self.names = names


def load_estimator(path: Path) -> Any:
    """The estimator in a skops file. UntrustedTypes for one of other types, ValueError for trees that are damaged."""
    from skops.io import get_untrusted_types, load

    untrusted = sorted(set(get_untrusted_types(file=path)) - {*CHECKED, *HARMLESS})
    if untrusted:
        raise UntrustedTypes(untrusted)
    model = load(path, trusted=[*CHECKED, *HARMLESS])
    _check_trees(model, None, set())
    return model


def prepare_calls(model: Any, threads: int) -> None:
    """Makes an estimator compute on some threads, and take arrays without names of columns and without a warning."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(threads)
    for part in _parts(model, set()):
        values = _values(part)
        if "n_jobs" in values:
            values["n_jobs"] = threads
        values.pop("feature_names_in_", None)


def histogram_trees(model: Any) -> list[Any]:
    """The trees of estimators that scikit-learn fits to histograms; their thresholds are in double precision."""
    return [part for part in _parts(model, set()) if _type_name(part) == _HISTOGRAM_TREE]


def _parts(value: Any, seen: set[int]) -> Iterator[Any]:
    """An estimator and all of scikit-learn's objects that it is made of."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if type(value).__module__.startswith("sklearn."):
        yield value
    for member in _members(value):
        yield from _parts(member, seen)


def _members(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple, set)):
        return list(value)
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, np.ndarray):
        return list(value.flat) if value.dtype == object else []
    return list(_values(value).values()) if type(value).__module__.startswith("sklearn.") else []


def _values(value: Any) -> dict[str, Any]:
    return getattr(value, "__dict__", {})


def _type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _check_trees(value: Any, features: int | None, seen: set[int]) -> None:
    """Checks every tree below a value against the number of features that reaches it."""
    if id(value) in seen:
        return
    seen.add(id(value))
    name = _type_name(value)
    if name == _TREE:
        nodes = value.__getstate__()["nodes"]
        leaves = nodes["left_child"] == -1
        _check_nodes(nodes["left_child"], nodes["right_child"], nodes["feature"], leaves, features)
    elif name == _HISTOGRAM_TREE:
        nodes = value.nodes
        if nodes["is_categorical"].any():
            raise ValueError("it has categorical features")
        _check_nodes(
            nodes["left"], nodes["right"], nodes["feature_idx"], nodes["is_leaf"].astype(bool), features
        )
    features = _features_of(value, features)
    for member in _members(value):
        _check_trees(member, features, seen)


def _features_of(value: Any, outer: int | None) -> int | None:
    """How many features reach the parts of a value: those of a forest are asked without checking their own number."""
    module = type(value).__module__
    own: int | None = _values(value).get("n_features_in_")
    if not module.startswith("sklearn."):
        return outer
    if own is None or not module.startswith(("sklearn.ensemble.", "sklearn.tree.")):
        return None if hasattr(value, "get_params") else outer
    return own if outer is None else min(own, outer)


def _check_nodes(left: Any, right: Any, feature: Any, leaves: Any, features: int | None) -> None:
    place, inner = np.arange(len(left)), ~leaves
    later = (np.minimum(left, right) > place) & (np.maximum(left, right) < len(left))
    known = (feature >= 0) & (feature < (features or 0))
    if not (later & known)[inner].all():
        raise ValueError("a tree in it is damaged")
