"""Programs of torch.export, read so that a file can compute and nothing else.

`torch.export.load` unpickles example inputs, tensors of classes of their own and objects, evaluates the expressions of
dimensions and calls the function that a node names, whichever it is. `check_program` refuses a file that has any of
this: its weights are raw bytes, its operators torch's own, its names plain. `write_clean` copies a file without the
example inputs and the source lines that no computation needs.
"""

from __future__ import annotations

import ast
import json
import logging
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from rbserve.core.errors import UsageError, first_line
from rbserve.core.requests import Request
from rbserve.runtimes.adopted import Run

AGAIN = "save it again with torch.export.save of torch 2.9 or newer"
GRAPH = "models/model.json"
EXAMPLES = "data/sample_inputs/model.pt"
MEMBERS = re.compile(
    r"models/model\.json|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|data/sample_inputs/model\.pt"
    r"|archive_format|archive_version|byteorder|version|(\.data/)?(version|serialization_id)"
    r"|\.format_version|\.storage_alignment|extra/.*"
)
OPERATORS = re.compile(
    r"torch\.ops\.(aten|prims)\.(?!save\b|from_file\b)\w+\.\w+"
    r"|torch\.ops\.higher_order\.(cond|scan|while_loop|map_impl|wrap_with_(set_grad_enabled|autocast))"
    r"|torch\.(_?sym_\w+)|math\.(ceil|floor|trunc|sqrt|pow)"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pos|pow|eq|ne|lt|le|gt|ge|and_|or_|not_|abs)"
)
"""What a node may call: functions of tensors and numbers, none of which reads or writes a file."""
DIMENSIONS = re.compile(
    r"[suz]\d+|u\d+|Symbol|Integer|Rational|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|ModularIndexing|Where"
    r"|CeilToInt|FloorToInt|TruncToInt|IntTrueDiv|ToFloat|Eq|Ne|Le|Lt|Ge|Gt|And|Or|Not|true|false"
    r"|Equality|Unequality|LessThan|StrictLessThan|GreaterThan|StrictGreaterThan"
)
"""Names in the expression of a dimension."""
NAME = re.compile(r"[A-Za-z_]\w*")
CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")


def load_program(path: Path) -> Any:
    """The torch.export.ExportedProgram of a file, after checking it. UsageError for a file that must not be read."""
    check_program(path)
    import torch

    log = logging.getLogger("torch.export")
    log.disabled = True  # it writes the traceback of what is told below
    try:
        return torch.export.load(path)
    except Exception as error:  # noqa: BLE001  (what torch raises for a file of another version has many classes)
        reason = first_line(error)
        raise UsageError(f"torch {torch.__version__} cannot read {path.name}: {reason}", AGAIN) from None
    finally:
        log.disabled = False


def program_function(program: Any) -> Run:
    """A function of named arrays, by the names of the program's inputs, that gives its tensors as arrays, in order."""
    import torch
    from torch.utils import _pytree as pytree

    module, structure = program.module(check_guards=False), program.call_spec.in_spec
    names, outputs = program.graph_signature.user_inputs, program.graph_signature.user_outputs
    places = [place for place, name in enumerate(outputs) if isinstance(name, str)]

    def run(request: Request) -> list[NDArray[Any]]:
        tensors = [torch.from_numpy(_writable(request[name])) for name in names]
        arguments, keywords = pytree.tree_unflatten(tensors, structure)
        with torch.inference_mode():
            leaves = pytree.tree_leaves(module(*arguments, **keywords))
        return [leaves[place].numpy() for place in places]

    return run


def _writable(array: NDArray[Any]) -> NDArray[Any]:
    """The array, or a copy of one that must not be written to, which torch does not take."""
    return array if array.flags.writeable else array.copy()


def write_clean(source: Path, target: Path) -> None:
    """Copies a program's file without its pickled example inputs and without where its nodes were written.

    UsageError where it is no archive of torch.export.
    """
    with _opened(source) as archive, zipfile.ZipFile(target, "w") as clean:
        for member, name in _members(archive, source.name):
            content = archive.read(member)
            if name == GRAPH:
                content = json.dumps(_without_metadata(_json(content, source.name))).encode()
            clean.writestr(member, b"" if name == EXAMPLES else content)


def check_program(path: Path) -> None:
    """UsageError for a file of which anything but tensors, numbers and torch's own operators would be made."""
    with _opened(path) as archive:
        members = {
            name: archive.read(member) for member, name in _members(archive, path.name) if _is_read(name)
        }
    if members.get(EXAMPLES):
        raise UsageError(f"{path.name} has pickled example inputs", "rbserve adopt leaves them out")
    for kind in ("weights", "constants"):
        entries = _json(members.get(f"data/{kind}/model_{kind}_config.json", b"{}"), path.name).get(
            "config", {}
        )
        for name, entry in entries.items():
            if entry.get("use_pickle") is not False:
                raise UsageError(
                    f"{path.name} has pickled {kind} ({name}): a tensor of a class of its own", AGAIN
                )
    for key, value in _texts(_json(members.get(GRAPH, b""), path.name)):
        if reason := _refusal(key, value):
            raise UsageError(
                f"{path.name} {reason}", "export a model of torch's own operators, or adopt its ONNX file"
            )


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise UsageError(f"{path.name} is no file of torch.export.save: it is no archive", AGAIN) from None


def _members(archive: zipfile.ZipFile, file: str) -> Iterator[tuple[zipfile.ZipInfo, str]]:
    """The members of an archive by their names below its folder. UsageError for one that a program does not need."""
    seen = set()
    for member in archive.infolist():
        name = member.filename.partition("/")[2]
        if not MEMBERS.fullmatch(name) or name in seen:
            pickled = member.filename.endswith((".pt", ".pkl"))
            reason = "pickled weights" if pickled else "a member that is not read"
            raise UsageError(f"{file} has {reason}: {member.filename}", AGAIN)
        seen.add(name)
        yield member, name
    if GRAPH not in seen:
        raise UsageError(f"{file} is no file of torch.export.save: it has no {GRAPH}", AGAIN)


def _is_read(name: str) -> bool:
    return name == EXAMPLES or name.endswith(".json")


def _json(content: bytes, file: str) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        raise UsageError(f"{file} is damaged: its graph is no JSON", AGAIN) from None


def _without_metadata(value: Any) -> Any:
    """The JSON of a graph whose nodes do not say which lines of which files made them."""
    if isinstance(value, dict):
        return {key: {} if key == "metadata" else _without_metadata(item) for key, item in value.items()}
    return [_without_metadata(item) for item in value] if isinstance(value, list) else value


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The texts of a JSON document with the nearest key above each; the metadata of a node as it is."""
    if isinstance(value, dict):
        for name, item in value.items():
            if name == "metadata" and item:
                yield name, item
            yield from _texts(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, key)
    elif isinstance(value, str):
        yield key, value


def _refusal(key: str, value: Any) -> str | None:
    """Why a text of a graph is refused, if it is."""
    if key in ("target", "as_operator") and not OPERATORS.fullmatch(value):
        return f"calls {value}, which is no operator of torch's own that computes"
    if key == "expr_str" and not _is_dimension(value):
        return f"has a dimension that is no expression: {value}"
    if key in ("name", "as_name", "graph_name", "forward_arg_names") and not NAME.fullmatch(value):
        return f"has a name that is none: {value}"
    if key in ("in_spec", "out_spec") and not _is_structure(value):
        return "takes or gives structures that are no lists, tuples and dictionaries"
    if key == "metadata":
        return "says which lines made its nodes; rbserve adopt leaves them out"
    return None


def _is_dimension(text: str) -> bool:
    """Whether a text is arithmetic on sizes: known functions and symbols, numbers and names in quotes."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError):
        return False
    plain = (
        ast.Expression,
        ast.Call,
        ast.keyword,
        ast.Load,
        ast.BinOp,
        ast.UnaryOp,
        ast.operator,
        ast.unaryop,
    )
    return all(
        isinstance(node, plain)
        or (isinstance(node, ast.Name) and DIMENSIONS.fullmatch(node.id) is not None)
        or (
            isinstance(node, ast.Constant)
            and (not isinstance(node.value, str) or NAME.fullmatch(node.value) is not None)
        )
        for node in nodes
    )


def _is_structure(text: str) -> bool:
    """Whether a text is the layout of nested lists, tuples and dictionaries with plain names."""

    def plain(node: Any) -> bool:
        context = node["context"]
        names = json.loads(context) if isinstance(context, str) else context
        return (
            node["type"] in CONTAINERS
            and (names is None or all(isinstance(name, str) and NAME.fullmatch(name) for name in names))
            and all(map(plain, node["children_spec"]))
        )

    try:
        return plain(json.loads(text)[1])
    except (ValueError, KeyError, TypeError, IndexError):
        return False
