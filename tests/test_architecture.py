"""The layout: rooms and who may import whom (the contracts in pyproject.toml), and what must stay light or absent."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import grimp
import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("rbserve", "train", "exporters", "profilers")
CORE_PACKAGES = {"msgspec", "numpy", "pyarrow", "psutil", "rbserve"}
HEAVY = ("torch", "transformers", "accelerate", "onnx", "duckdb", "matplotlib", "jinja2", "scipy")


def _files(*folders: str) -> list[Path]:
    """The Python files of the product; each once, though rbserve/ has links to the other folders."""
    return [file for folder in folders or FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]


def _imports(file: Path) -> set[str]:
    """Full names of what a file imports, at any depth of the code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_each_room_imports_only_rooms_below_it_and_no_modules_form_a_circle() -> None:
    assert lint_imports(str(ROOT / "pyproject.toml"), no_cache=True) == EXIT_STATUS_SUCCESS


def test_the_contracts_see_every_file() -> None:
    modules = grimp.build_graph("rbserve", cache_dir=None).modules
    expected = {
        ".".join(
            (*(() if folder == "rbserve" else ("rbserve",)), *file.relative_to(ROOT).with_suffix("").parts)
        )
        for folder in FOLDERS
        for file in _files(folder)
    }
    assert modules == {name.removesuffix(".__init__") for name in expected}


def _room(module: str) -> str:
    """The folder that a module lies in; a file beside the rooms, such as client.py, is a room of its own."""
    name = module.removeprefix("rbserve").removeprefix(".")
    is_folder = (ROOT / "rbserve" / name.replace(".", "/")).is_dir()
    return name if is_folder or "." not in name else name.rpartition(".")[0]


def _room_imports() -> set[tuple[str, str]]:
    """(importer, imported) of every pair of rooms between whose modules there is an import."""
    graph = grimp.build_graph("rbserve", cache_dir=None)
    pairs = {
        (_room(module), _room(target))
        for module in graph.modules
        for target in graph.find_modules_directly_imported_by(module)
    }
    return {(importer, imported) for importer, imported in pairs if importer != imported and imported}


def _sentence(verb: str, rooms: set[str]) -> str:
    listed = [f"`{room}`" for room in sorted(rooms)]
    if len(listed) > 1:
        listed = [", ".join(listed[:-1]) + " and " + listed[-1]]
    return f"{verb} {listed[0] if listed else 'no other room'}."


def room_sentences(room: str) -> str:
    """The end of a room's docstring, made from the imports that are there."""
    pairs = _room_imports()
    imported = {target for importer, target in pairs if importer == room}
    importers = {importer or "rbserve" for importer, target in pairs if target == room}
    return f"{_sentence('Imports', imported)} {_sentence('Imported by', importers)}"


def test_each_room_says_what_it_imports_and_what_imports_it() -> None:
    for file in _files():
        if file.name == "__init__.py" and file.parent != ROOT / "rbserve":
            room = _room("rbserve." + ".".join(file.parent.relative_to(ROOT).parts).removeprefix("rbserve."))
            docstring = ast.get_docstring(ast.parse(file.read_text())) or ""
            assert docstring.endswith(textwrap.fill(room_sentences(room), 118)), (
                f"{file}: {room_sentences(room)}"
            )


def test_data_and_what_lies_below_it_need_few_packages() -> None:
    for file in _files("rbserve/core", "rbserve/data", "rbserve/stats", "rbserve/machine", "rbserve/runs"):
        roots = {name.split(".")[0] for name in _imports(file)}
        assert roots <= CORE_PACKAGES | set(sys.stdlib_module_names), file


@pytest.mark.parametrize(
    "module",
    [
        "rbserve.cli.app",
        "rbserve.pipeline.serving",
        "rbserve.runtimes.opening",
        "rbserve.models.zoo",
        "rbserve.server.serve",
        "rbserve.profilers.measure.harness",
        "rbserve.profilers.gate.rounds",
        "rbserve.profilers.choose.choice",
        "rbserve.bench.worker",
    ],
)
def test_importing_what_serves_and_profiles_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_is_pickled() -> None:
    for file in _files():
        assert not {"pickle", "torch.save", "joblib"} & _imports(file), file
        text = file.read_text()
        assert "torch.save(" not in text, file
        assert "torch.load(" not in text, file
