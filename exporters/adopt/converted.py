"""What a converter makes of a model: its tensors, its graph, the files that it is loaded from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rbserve.core.requests import Signature
from rbserve.core.variants import ModelKind


class Converted(NamedTuple):
    """A model of another library, ready to become an artefact.

    `format` is what it was given as (onnx, lightgbm, transformers, …). `guessed` has a line for each thing that nobody
    said. `graph` is its ONNX graph in fp32, beside the `data` of large weights; None where it has no graph. `files` are
    loaded by its reference: the model in its own format, a tokeniser. All stand in the folder that the converter was
    given. `callable` is the `module:factory` of a Python model.
    """

    kind: ModelKind
    format: str
    signature: Signature
    guessed: Sequence[str] = ()
    graph: Path | None = None
    data: Sequence[Path] = ()
    files: Sequence[Path] = ()
    callable: str | None = None
