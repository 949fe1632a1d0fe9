"""A user's ONNX file, as it is: its tensors, its large weights, and in one line whatever onnxruntime cannot load."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbserve.core.adoption import AdoptOptions
from rbserve.core.errors import ArtifactError, UsageError
from rbserve.core.requests import TEXT, Signature, TensorSpec
from rbserve.data.request_set import ColumnRecord
from rbserve.exporters.adopt.converted import Converted
from rbserve.exporters.adopt.signature import guess_signature
from rbserve.exporters.adopt.slate import UNNAMED
from rbserve.exporters.graph import graphs_of
from rbserve.runtimes.request_scores import reason_of
from rbserve.runtimes.session import Session, open_session

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

GRAPH = "onnx/fp32.onnx"
"""Where the graph of an artefact stands in it."""
DTYPES = {"float": "float32", "double": "float64", "float16": "float16", "string": TEXT} | {
    name: name for name in ("int64", "int32", "int16", "int8", "uint8", "bool")
}
"""The dtype of a tensor by the name that onnxruntime has for it."""
FEATURE_LISTS = ("feature_names", "features", "columns", "feature_list")
"""Keys of a graph's metadata that may list the columns of its input, as JSON or with commas."""
CAUSES = (
    (
        r"Fatal error: ([^:\s]*):(\w+)\(",
        "it uses the operator {2} of the domain {1}, which onnxruntime does not have",
        "export it without operators of its own: libraries of custom operators are not loaded",
    ),
    (
        r"No Op registered for (\w+) with domain_version of (\d+)",
        "it uses the operator {1}, which opset {2} does not have",
        "export it anew, with an opset that has the operator",
    ),
    (
        r"Could not find an implementation for (\w+)\((\d+)\)",
        "it uses the operator {1} of opset {2}, which the installed onnxruntime cannot compute",
        "export it with an older opset, or install a newer onnxruntime",
    ),
    (
        r"Opset (\d+) is under development.* domain (\S+) is till opset (\d+)",
        "its opset {1} of {2} is too new: the installed onnxruntime reads up to {3}",
        "export it with an older opset, or install a newer onnxruntime",
    ),
    (
        r"Unsupported model IR version: (\d+), max supported IR version: (\d+)",
        "its format (IR version {1}) is too new: the installed onnxruntime reads up to {2}",
        "export it with an older version of onnx, or install a newer onnxruntime",
    ),
)
"""What onnxruntime says, what it means for the user, and what to do."""


def convert(
    source: Path | str, columns: Mapping[str, ColumnRecord], options: AdoptOptions, folder: Path
) -> Converted:
    """Copies an ONNX file, or the only one of a directory, into `folder`, with the files that have its large weights.

    The graph stays as it is, but for ZipMap nodes, which are taken out. Raises UsageError, in one line, for a file that
    is no ONNX graph or cannot be loaded, and where it is not clear how the columns fill it.
    """
    file = find_file(Path(source))
    model = read_model(file)
    graph = folder / GRAPH
    graph.parent.mkdir(parents=True, exist_ok=True)
    data = _copy_data(file, model, graph)
    if guessed := remove_zip_maps(model):
        graph.write_bytes(model.SerializeToString())
    else:
        shutil.copyfile(file, graph)
    signature, lines = graph_signature(graph, columns, options, file.name)
    return Converted("graph", "onnx", signature, [*guessed, *lines], graph, data)


def graph_signature(
    graph: Path, columns: Mapping[str, ColumnRecord], options: AdoptOptions, name: str
) -> tuple[Signature, list[str]]:
    """The signature of an ONNX graph, and what of it was guessed. `name` is what errors call the graph."""
    session = load(graph, name)
    inputs = [_tensor(value, name) for value in session.get_inputs()]
    outputs = [_tensor(value, name) for value in session.get_outputs() if value.type in _TENSORS]
    if not inputs:
        raise UsageError(f"{name} has no inputs", "export it with the features of the candidates as inputs")
    if not outputs:
        raise UsageError(
            f"{name} has no output that is a tensor of numbers", "export it with scores as its output"
        )
    metadata = session.get_modelmeta().custom_metadata_map  # type: ignore[attr-defined]
    return guess_signature(inputs, outputs, columns, options, _features(metadata))


_TENSORS = {f"tensor({name})": dtype for name, dtype in DTYPES.items()}


def _tensor(value: Any, name: str) -> TensorSpec:
    """A tensor as onnxruntime describes it; dimensions without a name or a size are called by their place."""
    if not value.name.isprintable():
        raise UsageError(
            f"{name} has a tensor whose name has control characters: {value.name!r}", "rename it in the model"
        )
    if value.type not in _TENSORS:
        raise UsageError(
            f"{name} takes {value.name} as {value.type}, which no column of a table can fill",
            f"inputs can be tensors of {', '.join(DTYPES.values())}",
        )
    dims = [
        size if isinstance(size, str) or (isinstance(size, int) and size > 0) else f"{UNNAMED}{axis}"
        for axis, size in enumerate(value.shape)
    ]
    return TensorSpec(value.name, _TENSORS[value.type], dims)


def _features(metadata: Mapping[str, str]) -> list[str]:
    """The names of the columns of the input, where the graph's metadata lists them."""
    text = next((metadata[key] for key in FEATURE_LISTS if metadata.get(key)), "")
    try:
        names = json.loads(text)
    except ValueError:
        names = text.split(",")
    return [str(name).strip() for name in names if str(name).strip()] if isinstance(names, list) else []


def load(graph: Path, name: str) -> Session:
    """A session of a graph; UsageError in one line where onnxruntime cannot load it."""
    try:
        session: Session = open_session(graph, threads=1)
    except ArtifactError as error:
        for pattern, message, hint in CAUSES:
            if match := re.search(pattern, error.message):
                raise UsageError(f"{name}: {message.format(match[0], *match.groups())}", hint) from error
        reason = reason_of(error.__cause__ or error)
        raise UsageError(f"{name} cannot be loaded by onnxruntime: {reason}", "export it anew") from error
    return session


def find_file(source: Path) -> Path:
    """The ONNX file itself, or the only one of a directory."""
    if not source.is_dir():
        if not source.is_file():
            raise UsageError(f"there is no file {source}", "name an ONNX file")
        return source
    files = sorted(source.glob("*.onnx"))
    if len(files) != 1:
        raise UsageError(
            f"{source} has {len(files) or 'no'} ONNX files" + (": " if files else "")
            + ", ".join(file.name for file in files),
            "name the file itself",
        )  # fmt: skip
    return files[0]


def read_model(file: Path) -> ModelProto:
    """The graph of a file, without its large weights; UsageError for a file that is no ONNX, or has no outputs."""
    import onnx

    try:
        model = onnx.load_model_from_string(file.read_bytes())
    except Exception:  # noqa: BLE001  (protobuf has an error of its own)
        model = onnx.ModelProto()
    if not model.HasField("graph"):
        raise UsageError(f"{file} is no ONNX file", "name a model that was exported to ONNX")
    if not model.graph.output:
        raise UsageError(f"{file} has no outputs", "export it with the scores of the candidates as an output")
    constants = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        tensor = value.type.tensor_type
        if (
            value.type.HasField("tensor_type")
            and not tensor.HasField("shape")
            and value.name not in constants
        ):
            raise UsageError(
                f"{file} does not say what shape its input {value.name} has", "export it with shapes"
            )
    return model


def _tensors_of(model: ModelProto) -> Iterator[TensorProto]:
    """All constants of a model."""
    for graph in graphs_of(model.graph):
        yield from graph.initializer
        for node in graph.node:
            for attribute in node.attribute:
                yield from (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors)


def _copy_data(file: Path, model: ModelProto, graph: Path) -> list[Path]:
    """Copies the files that have a graph's large weights beside the copy of the graph; returns the copies."""
    locations = dict.fromkeys(
        entry.value
        for tensor in _tensors_of(model)
        if tensor.data_location == tensor.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    )
    return [_copy_beside(file, location, graph) for location in locations]


def _copy_beside(file: Path, location: str, graph: Path) -> Path:
    source, copy = file.parent / location, graph.parent / location
    if Path(location).is_absolute() or ".." in Path(location).parts or copy == graph:
        raise UsageError(
            f"{file} has weights in {location}, which is not below its folder",
            "move the weights beside the graph",
        )
    if not source.is_file():
        raise UsageError(
            f"{file} has weights in {location}, and there is no file {source}", "put it beside the graph"
        )
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, copy)
    return copy


def remove_zip_maps(model: ModelProto) -> list[str]:
    """Takes out, in place, nodes that make a dictionary of each row of probabilities; a line for each.

    The output keeps its name and becomes the tensor float32[N, classes].
    """
    from onnx import TensorProto, helper

    graph, lines = model.graph, []
    for node in [node for node in graph.node if node.op_type == "ZipMap"]:
        name = node.output[0]
        classes = max(len(attribute.ints) or len(attribute.strings) for attribute in node.attribute)
        node.CopyFrom(helper.make_node("Identity", [node.input[0]], [name]))
        for output in graph.output:
            if output.name == name:
                output.CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, classes]))
        lines.append(f"The output {name} is a tensor of {classes} columns: its ZipMap node was taken out.")
    return lines
