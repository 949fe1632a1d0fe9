"""Small models of LightGBM, XGBoost, CatBoost and scikit-learn, saved in their own formats, and what they predict."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rbserve.core.adoption import AdoptOptions
from rbserve.core.requests import Request
from rbserve.data.artifact import Artifact
from rbserve.data.request_set import RequestSet
from rbserve.exporters.adopt.adopt import in_place, package
from rbserve.exporters.adopt.formats import find_format
from rbserve.exporters.adopt.libraries import convert

FEATURES = ["likes", "age"]
ROWS, GROUP = 400, 10
_RNG = np.random.default_rng(11)
X = _RNG.normal(size=(ROWS, 2))
X[:, 0] = np.round(X[:, 0] * 4) / 3  # values that float32 does not have, and many equal ones
CHANCE = 1 / (1 + np.exp(X[:, 1] - 2 * X[:, 0]))
CLICKS = (_RNG.random(ROWS) < CHANCE).astype(int)
GRADES = np.digitize(CHANCE, [0.2, 0.5, 0.8])


class Saved(NamedTuple):
    """A model's file and the library's own prediction of features float32[N, 2]."""

    path: Path
    predict: Callable[[NDArray[np.float32]], NDArray[Any]]


def lightgbm(folder: Path, labels: NDArray[Any] = CLICKS, **params: Any) -> Saved:
    """A booster of LightGBM in a text file; `names` of features, `categorical` columns."""
    import lightgbm as library

    names, categorical = params.pop("names", FEATURES), params.pop("categorical", "auto")
    group = [GROUP] * (ROWS // GROUP) if "rank" in params.get("objective", "") else None
    data = library.Dataset(
        X, labels, group=group, feature_name=names, categorical_feature=categorical, free_raw_data=False
    )
    settings = {"objective": "binary", "num_leaves": 6, "verbose": -1, "num_threads": 1, "seed": 1, **params}
    model = library.train(settings, data, 12)
    path = folder / "model.txt"
    model.save_model(path)
    return Saved(path, lambda features: model.predict(features, num_threads=1))


def xgboost(folder: Path, labels: NDArray[Any] = CLICKS, suffix: str = ".json", **params: Any) -> Saved:
    """A booster of XGBoost."""
    import xgboost as library

    names = params.pop("names", FEATURES)
    data = library.DMatrix(X, labels, feature_names=names)
    if "rank" in params.get("objective", ""):
        data.set_group([GROUP] * (ROWS // GROUP))
    model = library.train({"objective": "binary:logistic", "max_depth": 3, "nthread": 1, **params}, data, 12)
    path = folder / f"model{suffix}"
    model.save_model(path)
    return Saved(path, lambda features: model.predict(library.DMatrix(features, feature_names=names)))


def catboost(folder: Path, labels: NDArray[Any] = CLICKS, suffix: str = ".cbm", **params: Any) -> Saved:
    """A model of CatBoost: a classifier, unless its loss is another."""
    import catboost as library

    pool = library.Pool(
        params.pop("rows", X),
        labels,
        feature_names=params.pop("names", FEATURES),
        cat_features=params.pop("categorical", None),
        group_id=np.repeat(np.arange(ROWS // GROUP), GROUP)
        if "Rank" in params.get("loss_function", "")
        else None,
    )
    settings = {
        "loss_function": "Logloss", "iterations": 12, "depth": 3, "thread_count": 1, "allow_writing_files": False,
        "verbose": 0, "random_seed": 1,
    }  # fmt: skip
    model = library.CatBoost({**settings, **params}).fit(pool)
    path = folder / f"model{suffix}"
    model.save_model(path, format=suffix[1:])
    if params.get("loss_function", "Logloss") == "Logloss":
        return Saved(path, lambda features: model.predict(features, "Probability", thread_count=1)[:, 1])
    return Saved(path, lambda features: model.predict(features, "RawFormulaVal", thread_count=1))


def sklearn(folder: Path, model: Any, labels: NDArray[Any] = CLICKS, named: bool = True) -> Saved:
    """An estimator of scikit-learn in a skops file, fitted to a frame with names of columns or to an array."""
    import pandas
    from skops.io import dump

    def frame(rows: NDArray[Any]) -> Any:
        return pandas.DataFrame(rows, columns=FEATURES) if named else rows

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fits that have not converged
        model.fit(frame(X), labels)
    path = folder / "model.skops"
    dump(model, path)
    if hasattr(model, "predict_proba"):
        return Saved(path, lambda features: model.predict_proba(frame(features))[:, 1])
    return Saved(path, lambda features: model.predict(frame(features)))


def forest() -> Any:
    """A small forest that was fitted with threads of its own."""
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(6, max_depth=4, random_state=1, n_jobs=2)


LIBRARIES: Mapping[str, Callable[[Path], Saved]] = {
    "lightgbm": lightgbm,
    "xgboost": xgboost,
    "catboost": catboost,
    "sklearn": lambda folder: sklearn(folder, forest()),
}


def rows(count: int, seed: int = 3) -> NDArray[np.float32]:
    """Rows float32[count, 2] of features: those that models were fitted to among others."""
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=(count, 2))
    drawn[::2] = X[rng.integers(0, ROWS, len(drawn[::2]))]
    return drawn.astype(np.float32)


def request(count: int, seed: int = 3) -> Request:
    """A request with so many candidates."""
    return {"features": rows(count, seed)}


def adopted_library(saved: Saved, path: Path, requests: RequestSet) -> Artifact:
    """An adopted artefact of a saved model, judged on a request set with the columns of FEATURES."""
    path.mkdir(parents=True)
    converted = convert(saved.path, requests.manifest.columns, AdoptOptions(), path)
    row = find_format(str(saved.path))
    return package(path, path.name, str(saved.path), row, in_place(converted, path), requests)
