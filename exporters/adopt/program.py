"""A program of torch.export (.pt2, torch.export.save): run as it is by torch, and as an ONNX graph where that works."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from rbserve.core.adoption import AdoptOptions
from rbserve.core.errors import UsageError, first_line
from rbserve.core.requests import DTYPES, Dimension, Signature, TensorSpec
from rbserve.data.request_set import ColumnRecord
from rbserve.exporters.adopt.converted import Converted
from rbserve.exporters.adopt.signature import guess_signature
from rbserve.exporters.graph import data_file, save
from rbserve.runtimes.program import load_program, write_clean

FORMAT = "torch-export"
PROGRAM, GRAPH = "program.pt2", "fp32.onnx"


def convert(
    source: Path | str, columns: Mapping[str, ColumnRecord], options: AdoptOptions, folder: Path
) -> Converted:
    """Writes the program, without what is pickled in its file, and its ONNX graph into `folder`.

    Where torch cannot convert the program the reason is among the guesses, and torch-fp32 is its only variant. Raises
    UsageError for a file that is no program, calls operators of others, or whose inputs no columns fill.
    """
    path, graph = folder / PROGRAM, folder / GRAPH
    write_clean(Path(source), path)
    program = load_program(path)
    signature, guessed = guess_signature(_inputs(program), _outputs(program), columns, options)
    if reason := _write_graph(program, graph, signature):
        notes = [*guessed, f"It has no ONNX graph, and runs in torch alone: {reason}."]
        return Converted("program", FORMAT, signature, notes, files=[path])
    data = [file for file in (data_file(graph),) if file.exists()]
    return Converted("program", FORMAT, signature, guessed, graph, data, files=[path])


def _inputs(program: Any) -> list[TensorSpec]:
    """The tensors that a program takes, with torch's own symbols for dynamic dimensions."""
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    names = program.graph_signature.user_inputs
    for name in names:
        if name not in nodes:
            raise UsageError(
                f"the program takes {name!r}, which is no tensor", "export it with tensors as arguments"
            )
    return [_spec(nodes[name]) for name in names]


def _outputs(program: Any) -> list[TensorSpec]:
    """The tensors that a program gives."""
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    nodes = {node.name: node for node in output.args[0] if hasattr(node, "name")}
    return [_spec(nodes[name]) for name in program.graph_signature.user_outputs if name in nodes]


def _spec(node: Any) -> TensorSpec:
    import torch

    value = node.meta["val"]
    if not isinstance(value, torch.Tensor):
        raise UsageError(
            f"the program's {node.name} is no tensor", "export it with tensors as arguments and results"
        )
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise UsageError(
            f"the program's {node.name} is of {dtype}", f"dtypes of requests: {', '.join(DTYPES)}"
        )
    dims: list[Dimension] = [int(size) if str(size).isdecimal() else str(size) for size in value.shape]
    return TensorSpec(node.name, dtype, dims)


def _write_graph(program: Any, path: Path, signature: Signature) -> str | None:
    """Writes the ONNX graph of a program; why torch cannot convert it, if it cannot."""
    import torch

    names = [[spec.name for spec in specs] for specs in (signature.inputs, signature.outputs)]
    try:
        with _quiet():
            made = torch.onnx.export(
                program, dynamo=True, verbose=False, input_names=names[0], output_names=names[1]
            )
            assert made is not None
            save(made.model_proto, path, {"rbserve.format": FORMAT})
    except ModuleNotFoundError as error:
        return f"the package {error.name} is not installed (pip install 'rbserve[adopt]')"
    except Exception as error:  # noqa: BLE001  (torch's exporter raises many classes, and says why in its cause)
        path.unlink(missing_ok=True)
        return first_line(error.__cause__ or error).removesuffix(".")
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch's exporter prints its steps and warns of its own code."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
