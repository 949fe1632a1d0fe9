"""What each library says of a model: its features, its classes, and its graph as the library's converter makes it."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import UsageError
from rbserve.runtimes.native import (
    Function,
    LightGbmFunction,
    XgboostFunction,
    lightgbm_text,
    load_catboost,
    open_catboost,
    open_sklearn,
)
from rbserve.runtimes.skops_file import histogram_trees, load_estimator

FEATURES = "features"
ONE_SCORE = "what can be adopted gives each candidate one number: a classifier of two classes, a regressor or a ranker"


class LibraryModel(NamedTuple):
    """A model of a library: how many features it has, their names where it knows them, and its two forms.

    `function` is the library's own prediction on one thread, `graph` makes an ONNX model with an input FEATURES and
    may raise anything where the converter does not know the model.
    """

    width: int
    names: Sequence[str] | None
    function: Function
    graph: Callable[[], Any]


def read_lightgbm(path: Path) -> LibraryModel:
    """A booster; UsageError for several classes, and for categories that the file numbers by their order in pandas."""
    from lightgbm import Booster

    booster = Booster(model_str=lightgbm_text(path))
    if booster.num_model_per_iteration() > 1:
        raise _several_classes(path, booster.num_model_per_iteration())
    if any(booster.pandas_categorical or []):
        raise _categorical(path, "pandas categories", "give LightGBM integers and categorical_feature=…")
    return LibraryModel(
        booster.num_feature(),
        _own_names(booster.feature_name(), r"Column_\d+"),
        LightGbmFunction(path, 1),
        lambda: _lightgbm_graph(booster),
    )


def _lightgbm_graph(booster: Any) -> Any:
    from lightgbm import Booster
    from onnxmltools import convert_lightgbm

    text = re.sub(r"(?m)^tree_sizes=.*\n", "", booster.model_to_string(num_iteration=-1), count=1)
    rounded = Booster(model_str=re.sub(r"(?m)^threshold=(.*)$", _round_down, text))
    return convert_lightgbm(rounded, initial_types=_input(booster.num_feature()), zipmap=False)


def _round_down(line: re.Match[str]) -> str:
    """The thresholds of a tree as `_below` rounds them."""
    below = _below(np.array(line[1].split(), np.float64))
    return "threshold=" + " ".join(repr(float(value)) for value in below)


def _below(exact: NDArray[np.float64]) -> NDArray[np.float32]:
    """The next number in float32 that is not above: of float32 values the same are at most that and at most `exact`."""
    near = exact.astype(np.float32)
    return np.where(near > exact, np.nextafter(near, np.float32(-np.inf)), near)


def read_xgboost(path: Path) -> LibraryModel:
    """A booster; UsageError for several classes or targets, categorical features, and linear boosters."""
    booster = _load_xgboost(path)
    learner = json.loads(booster.save_config())["learner"]
    shape = learner["learner_model_param"]
    outputs = max(int(shape["num_class"]), int(shape.get("num_target", 1)))
    if outputs > 1:
        raise _several_classes(path, outputs)
    if "c" in (booster.feature_types or []):
        raise _categorical(path, "categorical features of XGBoost", "give XGBoost one column a category")
    if learner["gradient_booster"]["name"] == "gblinear":
        raise UsageError(f"{path} is a linear booster, which XGBoost cannot score in place", "use gbtree")
    return LibraryModel(
        booster.num_features(),
        _own_names(booster.feature_names, r"f\d+"),
        XgboostFunction(path, 1),
        lambda: _xgboost_graph(booster),
    )


def _load_xgboost(path: Path) -> Any:
    """The booster of a file in XGBoost's JSON or UBJSON, which the library tells apart by their content."""
    from xgboost import Booster, config_context

    booster = Booster()
    with config_context(verbosity=0):
        booster.load_model(bytearray(path.read_bytes()))
    return booster


# The converter knows some objectives by other names: those with the same scores.
_SAME_SCORES: Mapping[str, str] = {
    "rank:ndcg": "reg:squarederror",
    "rank:map": "reg:squarederror",
    "rank:pairwise": "reg:squarederror",
    "reg:logistic": "binary:logistic",
}


def _xgboost_graph(booster: Any) -> Any:
    from onnxmltools import convert_xgboost
    from xgboost import Booster

    model = json.loads(bytes(booster.save_raw("json")))
    objective = model["learner"]["objective"]
    if objective["name"] in _SAME_SCORES:
        model["learner"]["objective"] = {
            "name": _SAME_SCORES[objective["name"]],
            "reg_loss_param": {"scale_pos_weight": "1"},
        }
    renamed = Booster()
    renamed.load_model(bytearray(json.dumps(model).encode()))
    renamed.feature_names = None  # the converter takes f0, f1, … alone
    return convert_xgboost(renamed, initial_types=_input(booster.num_features()))


def read_catboost(path: Path) -> LibraryModel:
    """A model; UsageError for several classes, and for features that are no numbers."""
    model = load_catboost(path)
    if len(model.classes_) > 2:
        raise _several_classes(path, len(model.classes_))
    names = model.feature_names_
    others = [
        names[place]
        for group in (
            model.get_cat_feature_indices(), model.get_text_feature_indices(), model.get_embedding_feature_indices()
        )
        for place in group
    ]  # fmt: skip
    if others:
        raise _categorical(
            path, f"features that are no numbers ({', '.join(others[:3])})", "train it on numbers alone"
        )
    if model.get_all_params().get("loss_function", "").startswith("Multi"):
        raise _several_classes(path, None)
    return LibraryModel(
        len(names),
        _own_names(names, r"\d+"),
        open_catboost(path, 1),
        lambda: _catboost_graph(model),
    )


def _catboost_graph(model: Any) -> Any:
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        model.save_model(str(path), format="onnx")
        return onnx.load(path)


def read_sklearn(path: Path) -> LibraryModel:
    """A classifier or regressor; UsageError for several classes or targets, and for what predicts no scores."""
    model = load_estimator(path)
    classifies = hasattr(model, "predict_proba")
    if not classifies and getattr(model, "_estimator_type", _estimator_type(model)) != "regressor":
        name = type(model).__name__
        raise UsageError(
            f"{path} holds a {name}, which predicts neither probabilities nor a number", ONE_SCORE
        )
    if classifies and len(model.classes_) != 2:
        raise _several_classes(path, len(model.classes_))
    names = getattr(model, "feature_names_in_", None)
    return LibraryModel(
        model.n_features_in_,
        None if names is None else [str(name) for name in names],
        open_sklearn(path, 1),
        lambda: _sklearn_graph(model, classifies),
    )


def _estimator_type(model: Any) -> str | None:
    from sklearn.base import is_regressor

    return "regressor" if is_regressor(model) else None


def _sklearn_graph(model: Any, classifies: bool) -> Any:
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType

    rounded = deepcopy(model)
    for tree in histogram_trees(rounded):
        tree.nodes["num_threshold"] = _below(tree.nodes["num_threshold"])
    with _plain_attributes():
        return to_onnx(
            rounded,
            initial_types=[(FEATURES, FloatTensorType([None, model.n_features_in_]))],
            options={id(rounded): {"zipmap": False}} if classifies else None,
        )


@contextmanager
def _plain_attributes() -> Iterator[None]:
    """skl2onnx gives nodes lists of booleans and of NumPy's integers, which newer versions of onnx refuse."""
    from skl2onnx.common._container import ModelComponentContainer as Container

    add_node = Container.add_node

    def add(self: Any, *positional: Any, **attributes: Any) -> Any:
        return add_node(self, *positional, **{name: _plain(value) for name, value in attributes.items()})

    Container.add_node = add
    try:
        yield
    finally:
        Container.add_node = add_node


def _plain(value: Any) -> Any:
    if isinstance(value, list) and any(isinstance(each, (bool, np.integer)) for each in value):
        return [int(each) for each in value]
    return value


def _input(width: int) -> list[tuple[str, Any]]:
    from onnxmltools.convert.common.data_types import FloatTensorType

    return [(FEATURES, FloatTensorType([None, width]))]


def _own_names(names: Sequence[str] | None, invented: str) -> list[str] | None:
    """The names of features, unless there are none or the library made them up."""
    if not names or all(re.fullmatch(invented, name) for name in names):
        return None
    return list(names)


def _several_classes(path: Path, count: int | None) -> UsageError:
    return UsageError(f"{path} has {count or 'several'} classes or targets", ONE_SCORE)


def _categorical(path: Path, kind: str, instead: str) -> UsageError:
    return UsageError(f"{path} has {kind}, which its tensor of numbers cannot tell", instead)


READERS: Mapping[str, Callable[[Path], LibraryModel]] = {
    "lightgbm": read_lightgbm,
    "xgboost": read_xgboost,
    "catboost": read_catboost,
    "sklearn": read_sklearn,
}
"""How the model of each library is read."""
