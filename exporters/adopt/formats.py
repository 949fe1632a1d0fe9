"""The formats of models that can be adopted, and how each is recognised."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from rbserve.core.adoption import AdoptOptions
from rbserve.core.errors import UsageError
from rbserve.data.request_set import ColumnRecord
from rbserve.exporters.adopt.converted import Converted
from rbserve.exporters.adopt.libraries import library_format

Convert = Callable[[str, Mapping[str, ColumnRecord], AdoptOptions, Path], Converted]


class Format(NamedTuple):
    """A kind of model: the module of this folder that converts it, and whether a file or a text names one.

    The module has `convert(source, columns, options, folder) -> Converted`, which puts the model's files into `folder`,
    and raises UsageError in one line. `item_form` is what its artefacts say of their items. A `native` format is
    read by a library that a damaged file can crash: it is adopted in a process of its own.
    """

    title: str
    module: str
    recognises: Callable[[str], bool]
    item_form: str = "features"
    native: bool = False

    @property
    def convert(self) -> Convert:
        """The function that converts a model; its module, with the libraries that it needs, is imported here."""
        convert: Convert = importlib.import_module(f"{__package__}.{self.module}").convert
        return convert


def _is_onnx(source: str) -> bool:
    path = Path(source)
    if path.is_dir():
        return any(path.glob("*.onnx"))
    return path.suffix == ".onnx" and path.is_file()


def _is_program(source: str) -> bool:
    return Path(source).suffix == ".pt2" and Path(source).is_file()


def _is_library_model(source: str) -> bool:
    return library_format(source) is not None


def _is_transformers(source: str) -> bool:
    path = Path(source)
    has_suffix = re.search(r"\.[a-z]\w*$", source) is not None
    is_hub_id = re.fullmatch(r"[\w.-]+/[\w.-]+", source) is not None and not path.exists() and not has_suffix
    return (path / "config.json").is_file() or is_hub_id


def _is_callable(source: str) -> bool:
    return re.fullmatch(r"[\w.]+:\w+", source) is not None and not Path(source).exists()


FORMATS = (
    Format(
        "a directory of transformers or an id of the Hugging Face hub",
        "reranker",
        _is_transformers,
        item_form="text",
    ),
    Format("an ONNX file", "onnx_file", _is_onnx),
    Format(
        "a model of LightGBM, XGBoost, CatBoost or scikit-learn (skops)",
        "libraries",
        _is_library_model,
        native=True,
    ),
    Format("a torch.export file (.pt2)", "program", _is_program),
    Format("a Python callable module:factory", "callable", _is_callable),
)
"""Every format; the first that recognises a source converts it."""


def find_format(source: str) -> Format:
    """The format of a model; UsageError for a file that is not there, or of no format that is known."""
    for row in FORMATS:
        if row.recognises(source):
            return row
    known = ", ".join(row.title for row in FORMATS)
    if not Path(source).exists():
        raise UsageError(f"there is no file {source}", f"what can be adopted: {known}")
    raise UsageError(f"{source} is no model that can be adopted", f"what can be adopted: {known}")
