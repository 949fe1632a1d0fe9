"""Models of LightGBM, XGBoost, CatBoost and scikit-learn, from their own files, with an ONNX graph where one is equal.

A model takes one tensor, `features` float32[N, k]: a column for each feature that it names, in its own order.
"""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from rbserve.core.adoption import AdoptOptions
from rbserve.core.errors import RbserveError, UsageError, unknown_name
from rbserve.core.requests import SLATE, TEXT, Signature, TensorSpec
from rbserve.data.request_set import ColumnRecord
from rbserve.exporters.adopt.converted import Converted
from rbserve.exporters.library_graph import Graph, make_graph
from rbserve.exporters.library_models import FEATURES, READERS, LibraryModel
from rbserve.runtimes.native import HINT, LIBRARIES
from rbserve.runtimes.request_scores import reason_of
from rbserve.runtimes.skops_file import UntrustedTypes

_PICKLES = (".pkl", ".pickle", ".joblib")
_FIRST_KEYS = {
    "learner": "xgboost", "version": "xgboost",
    "ctr_data": "catboost", "features_info": "catboost", "model_info": "catboost", "oblivious_trees": "catboost",
}  # fmt: skip
_SCORES = "scores"


def library_format(source: Path | str) -> str | None:
    """Which library's model a file is, by its content: a key of `native.LIBRARIES`; None for other files.

    Raises UsageError for a pickle, which is never read, and for LightGBM's dump, which LightGBM cannot read.
    """
    path = Path(source)
    if not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.read(4096)
    if path.suffix.lower() in _PICKLES or (head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5"):
        raise UsageError(
            f"{path} is a pickle, which can run any code when it is read: it is refused",
            "save it with skops.io.dump(model, 'model.skops'), or with the library's own save_model",
        )
    return _by_head(path, head)


def _by_head(path: Path, head: bytes) -> str | None:
    if head.startswith((b"tree\n", b"tree\r\n")):
        return "lightgbm"
    if head.startswith(b"CBM1"):
        return "catboost"
    if head[:1] == b"{" and b"learner" in head[:32]:
        return "xgboost"
    if head.startswith(b"PK") and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return "sklearn" if "schema.json" in archive.namelist() else None
    key = re.match(rb'\s*\{\s*"(\w+)"', head)
    if key and key[1] == b"name" and b'"tree_info"' in path.read_bytes():
        raise UsageError(
            f"{path} is a dump of LightGBM, which LightGBM itself cannot read",
            "save the model with booster.save_model('model.txt')",
        )
    return _FIRST_KEYS.get(key[1].decode()) if key else None


def convert(
    source: Path | str, columns: Mapping[str, ColumnRecord], options: AdoptOptions, folder: Path
) -> Converted:
    """The model of a file of one of the libraries, copied into `folder`, and its ONNX graph.

    There is no graph where the converter cannot make one or makes one that scores otherwise; `guessed` says so. Raises
    UsageError for a file that is no such model or holds types that are not trusted, for a model of several classes or
    with categorical features of a kind that numbers do not tell, and for a feature that no column has.
    """
    path = Path(source)
    library = library_format(path)
    if library is None:
        raise UsageError(
            f"{path} is no model of LightGBM, XGBoost, CatBoost or scikit-learn",
            "what can be read: LightGBM's .txt, XGBoost's .json and .ubj, CatBoost's .cbm and .json, .skops",
        )
    model = _read(library, path)
    names, guessed = feature_columns(model, columns, options)
    graph, warnings = make_graph(model, folder / "model.onnx")
    copy = folder / f"{library}{path.suffix}"
    shutil.copyfile(path, copy)
    return Converted(
        kind="library",
        format=library,
        signature=_signature(model, names, graph),
        guessed=[*guessed, *warnings],
        graph=graph.path if graph else None,
        files=[copy],
    )


def _signature(model: LibraryModel, columns: list[str], graph: Graph | None) -> Signature:
    name, width = (graph.output, graph.width) if graph else (_SCORES, 0)
    return Signature(
        inputs=[TensorSpec(FEATURES, "float32", [SLATE, model.width], columns)],
        outputs=[TensorSpec(name, "float32", [SLATE, width] if width else [SLATE])],
        score=name,
        score_column=1 if width == 2 else None,
    )


def _read(library: str, path: Path) -> LibraryModel:
    missing = LIBRARIES[library].missing
    if missing is not None:
        raise UsageError(f"{path} needs the package {missing}, which is not installed", HINT)
    try:
        return READERS[library](path)
    except RbserveError:
        raise
    except UntrustedTypes as error:
        raise UsageError(
            f"{path} holds types that are not trusted: {', '.join(error.names)}",
            "save a model of scikit-learn's own classes, or adopt it as ONNX",
        ) from error
    except Exception as error:  # each library has its own
        raise UsageError(
            f"{path} cannot be read as a model of {library}: {reason_of(error)}", "save it anew"
        ) from error


def feature_columns(
    model: LibraryModel, columns: Mapping[str, ColumnRecord], options: AdoptOptions
) -> tuple[list[str], list[str]]:
    """The columns that fill the features of a model, in its order, and what was guessed of them.

    Raises UsageError for a column that is missing or not of numbers, or for columns that are too few or too many.
    """
    guessed: list[str] = []
    mapped = options.columns_of
    if unknown := [name for name in mapped if name != FEATURES]:
        raise unknown_name("input of the model", unknown[0], [FEATURES])
    if mapped:
        names = mapped[FEATURES]
        for name in names:
            if name not in columns:
                raise unknown_name("column", name, columns)
    elif model.names is not None:
        names = [_column_of(feature, columns) for feature in model.names]
    else:
        names = _numeric(columns, options)
        guessed.append(f"the model names no features: columns in the table's order, {', '.join(names)}")
    _check_widths(model, names, columns)
    return names, guessed


def _column_of(feature: str, columns: Mapping[str, ColumnRecord]) -> str:
    """The column of a feature's name; LightGBM writes underscores for the spaces of a name."""
    if feature in columns:
        return feature
    alike = [name for name in columns if re.sub(r"\s", "_", name) == feature]
    if len(alike) == 1:
        return alike[0]
    error = unknown_name("column", feature, columns)
    raise UsageError(
        f"the model's feature {feature} is no column of the requests",
        f"{error.hint} (or name the columns of all features: --map {FEATURES}=…)",
    )


def _numeric(columns: Mapping[str, ColumnRecord], options: AdoptOptions) -> list[str]:
    """The columns of numbers, but those that have another role."""
    other = {options.label, options.group, options.user}
    return [name for name, record in columns.items() if name not in other and _is_numeric(record)]


def _is_numeric(record: ColumnRecord) -> bool:
    return record.dtype != TEXT and record.width != -1


def _check_widths(model: LibraryModel, names: Sequence[str], columns: Mapping[str, ColumnRecord]) -> None:
    for name in names:
        if not _is_numeric(columns[name]):
            kind = "texts" if columns[name].dtype == TEXT else "lists of different lengths"
            raise UsageError(f"the model takes numbers, and column {name} has {kind}", f"--map {FEATURES}=…")
    total = sum(columns[name].width or 1 for name in names)
    if total != model.width:
        raise UsageError(
            f"the model has {model.width} features, and the columns {', '.join(names) or '(none)'} have {total}",
            f"name its columns in its order: --map {FEATURES}=column,column,…",
        )
