"""The runtime native: models of LightGBM, XGBoost, CatBoost and scikit-learn, scored by the library that made them.

A model is a function of its features float32[N, k]. Where a library's call from Python costs more than the trees of one
candidate, its C interface is called directly.
"""

from __future__ import annotations

import ctypes
import json
import re
import weakref
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import ArtifactError
from rbserve.core.requests import SLATE, Request, Signature, TensorSpec
from rbserve.core.types import Scorer, Vectors
from rbserve.core.variants import Variant
from rbserve.data.artifact import Artifact
from rbserve.runtimes.adopted import AdoptedScorer
from rbserve.runtimes.skops_file import load_estimator, prepare_calls
from rbserve.runtimes.trees import tree_scorer

HINT = (
    "pip install lightgbm, xgboost-cpu, catboost, or scikit-learn and skops: the library that made the model"
)

Function = Callable[[Vectors], NDArray[Any]]
"""Features float32[N, k], C-contiguous -> the score [N] of each candidate."""
_POINTER, _INT, _LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64


class Library(NamedTuple):
    """A library whose models can be adopted: the packages that it needs, and how a model's file becomes a function.

    `open` reads a file and returns a function of features that computes on so many threads.
    """

    packages: tuple[str, ...]
    open: Callable[[Path, int], Function]

    @property
    def missing(self) -> str | None:
        """The first of its packages that is not installed, if any."""
        return next((name for name in self.packages if find_spec(name) is None), None)


def unavailable(artifact: Artifact, variant: Variant) -> str | None:  # noqa: ARG001
    """The package that the artefact's library lacks here."""
    missing = library_of(artifact).missing
    return None if missing is None else f"the package {missing} is not installed"


def open(artifact: Artifact, variant: Variant, threads: int, user_cache: int) -> Scorer:  # noqa: ARG001
    """The scorer of an adopted model, or of a row of trees, in its own library, its file verified."""
    library = library_of(artifact)
    (name,) = artifact.variant_files(variant.name)
    function = library.open(artifact.file(name), threads)
    if not artifact.is_adopted:
        return tree_scorer(artifact, function)
    features = artifact.signature.inputs[0].name

    def run(request: Request) -> list[NDArray[Any]]:
        return [function(np.ascontiguousarray(request[features], np.float32))]

    return AdoptedScorer(run, _score_alone(artifact))


def library_of(artifact: Artifact) -> Library:
    """The row of the library that made an adopted model, or a row of trees."""
    adopted = artifact.manifest.adopted
    return LIBRARIES[adopted.format if adopted else "lightgbm"]


def _score_alone(artifact: Artifact) -> Signature:
    """The signature of a function that gives one number a candidate: of two classes, the probability of class 1."""
    signature = artifact.signature
    outputs = [TensorSpec(signature.score, "float32", [SLATE])]
    return msgspec.structs.replace(signature, outputs=outputs, score_column=None)


def shared_library(package: str) -> ctypes.CDLL:
    """The C library in an installed package, without importing the package: that takes seconds and a hundred MB."""
    spec = find_spec(package)
    assert spec is not None
    folders = map(Path, spec.submodule_search_locations or ())
    name = f"lib*{package}"
    files = (file for folder in folders for end in ("so", "dylib") for file in folder.rglob(f"{name}.{end}"))
    path = next(files, None)
    if path is None:
        raise ArtifactError(
            f"the package {package} has no {name}.so", f"pip install --force-reinstall {package}"
        )
    return ctypes.CDLL(str(path))


def lightgbm_text(path: Path) -> str:
    """The content of a text file of LightGBM. ValueError for a file that is cut off, which would end the process.

    The sizes of the trees are left out: with them LightGBM reads trees in parallel, where a damaged one ends the
    process too.
    """
    text = path.read_text()
    if not all(f"\nend of {section}" in text for section in ("trees", "parameters")):
        raise ValueError("the file is cut off")
    return re.sub(r"(?m)^tree_sizes=.*\n", "", text, count=1)


class LightGbmFunction:
    """Scores by LightGBM's C interface: of a single row, with all but its values prepared."""

    def __init__(self, path: Path, threads: int) -> None:
        self._library = library = shared_library("lightgbm")
        library.LGBM_GetLastError.restype = ctypes.c_char_p
        self._booster, self._row_config, self._count, width = _POINTER(), _POINTER(), _LONG(), _INT()
        text, parameters = lightgbm_text(path).encode(), f"num_threads={threads}".encode()
        booster = ctypes.byref(self._booster)
        self._check(library.LGBM_BoosterLoadModelFromString(text, ctypes.byref(_INT()), booster))
        weakref.finalize(self, library.LGBM_BoosterFree, self._booster)
        self._check(library.LGBM_BoosterGetNumFeature(self._booster, ctypes.byref(width)))
        self._width, self._parameters = width.value, parameters
        self._check(
            library.LGBM_BoosterPredictForMatSingleRowFastInit(
                self._booster, 0, 0, -1, 0, self._width, parameters, ctypes.byref(self._row_config)
            )
        )
        weakref.finalize(self, library.LGBM_FastConfigFree, self._row_config)
        self._predict_row = library.LGBM_BoosterPredictForMatSingleRowFast
        self._predict_row.argtypes = [_POINTER, _POINTER, _POINTER, _POINTER]
        self._predict_rows = library.LGBM_BoosterPredictForMat
        self._predict_rows.argtypes = [
            _POINTER, _POINTER, _INT, ctypes.c_int32, ctypes.c_int32, _INT, _INT, _INT, _INT, ctypes.c_char_p,
            _POINTER, _POINTER,
        ]  # fmt: skip

    def __call__(self, features: Vectors) -> NDArray[np.float64]:
        """What `Booster.predict` gives: float64[N]."""
        scores = np.empty(len(features))
        count, values, into = ctypes.byref(self._count), features.ctypes.data, scores.ctypes.data
        if len(scores) == 1:
            self._check(self._predict_row(self._row_config, values, count, into))
        elif len(scores):
            self._check(
                self._predict_rows(
                    self._booster,
                    values,
                    0,
                    len(scores),
                    self._width,
                    1,
                    0,
                    0,
                    -1,
                    self._parameters,
                    count,
                    into,
                )
            )
        return scores

    def _check(self, code: int) -> None:
        if code:
            raise RuntimeError(self._library.LGBM_GetLastError().decode(errors="replace"))


class XgboostFunction:
    """Scores by XGBoost's C interface, which `Booster.inplace_predict` calls after many questions in Python."""

    _QUESTION = json.dumps(
        {
            "type": 0, "training": False, "iteration_begin": 0, "iteration_end": 0, "missing": float("nan"),
            "strict_shape": False, "cache_id": 0,
        }
    ).encode()  # fmt: skip

    def __init__(self, path: Path, threads: int) -> None:
        self._library = library = shared_library("xgboost")
        library.XGBGetLastError.restype = ctypes.c_char_p
        content, self._booster, width = path.read_bytes(), _POINTER(), ctypes.c_uint64()
        self._check(library.XGBoosterCreate(None, ctypes.c_uint64(0), ctypes.byref(self._booster)))
        weakref.finalize(self, library.XGBoosterFree, self._booster)
        size = ctypes.c_uint64(len(content))
        self._check(library.XGBoosterLoadModelFromBuffer(self._booster, content, size))
        self._check(library.XGBoosterSetParam(self._booster, b"nthread", str(threads).encode()))
        self._check(library.XGBoosterGetNumFeature(self._booster, ctypes.byref(width)))
        self._width = width.value
        self._predict = library.XGBoosterPredictFromDense
        self._predict.argtypes = [
            _POINTER, ctypes.c_char_p, ctypes.c_char_p, _POINTER, _POINTER, _POINTER, _POINTER
        ]  # fmt: skip

    def __call__(self, features: Vectors) -> Vectors:
        """What `Booster.predict` gives: float32[N]."""
        rows = len(features)
        if not rows:
            return np.empty(0, np.float32)
        array = b'{"data":[%d,true],"shape":[%d,%d],"typestr":"<f4","version":3}' % (
            features.ctypes.data, rows, self._width,
        )  # fmt: skip
        shape, dimensions, scores = _POINTER(), ctypes.c_uint64(), ctypes.POINTER(ctypes.c_float)()
        self._check(
            self._predict(
                self._booster, array, self._QUESTION, None, ctypes.byref(shape), ctypes.byref(dimensions),
                ctypes.byref(scores),
            )
        )  # fmt: skip
        return np.ctypeslib.as_array(scores, (rows,)).copy()  # the library writes its next answer there

    def _check(self, code: int) -> None:
        if code:
            raise RuntimeError(self._library.XGBGetLastError().decode(errors="replace").splitlines()[0])


def load_catboost(path: Path) -> Any:
    """A `catboost.CatBoost` of a .cbm or .json file."""
    from catboost import CatBoost

    return CatBoost().load_model(str(path), format="cbm" if path.read_bytes()[:4] == b"CBM1" else "json")


def open_catboost(path: Path, threads: int) -> Function:
    """Probabilities of class 1 of a classifier, raw scores of all others."""
    model = load_catboost(path)
    if len(model.classes_):
        return lambda features: model.predict(features, "Probability", thread_count=threads)[:, 1]
    return lambda features: model.predict(features, "RawFormulaVal", thread_count=threads)


def open_sklearn(path: Path, threads: int) -> Function:
    """Probabilities of class 1 of a classifier of scikit-learn, predictions of a regressor."""
    model = load_estimator(path)
    prepare_calls(model, threads)
    if hasattr(model, "predict_proba"):
        return lambda features: model.predict_proba(features)[:, 1]
    return lambda features: model.predict(features)


LIBRARIES: Mapping[str, Library] = {
    "lightgbm": Library(("lightgbm",), LightGbmFunction),
    "xgboost": Library(("xgboost",), XgboostFunction),
    "catboost": Library(("catboost",), open_catboost),
    "sklearn": Library(("sklearn", "skops"), open_sklearn),
}
"""By the format that an adopted model was given as."""
