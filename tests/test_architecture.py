"""Imports go one way: core <- models <- runtime <- {train | exporters | profilers | server} <- pipeline <- cli."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SPOKES = ("train", "exporters", "profilers", "server")
BELOW_SPOKES = {
    "client",
    "core",
    "models",
    "session",
    "ranking",
    "language",
    "endpoint",
    "endpoint_answers",
    "runtime",
    "content",
    "texts",
    "__init__",
}
MAKERS = BELOW_SPOKES | {"catalogue", "console", "places", "pipeline", "progress", *SPOKES}
VERBS = MAKERS | {"cli_data", "cli_options"}
ALLOWED = {
    "core": {"core", "__init__"},
    "models": {"core", "models", "__init__"},
    "client": {"core", "__init__"},
    "session": {"core", "__init__"},
    "ranking": {"core", "models", "session", "__init__"},
    "language": {"core", "models", "session", "__init__"},
    "endpoint": {"core", "models", "endpoint_answers", "__init__"},
    "endpoint_answers": {"core", "__init__"},
    "runtime": {"core", "models", "session", "ranking", "language", "endpoint", "__init__"},
    "content": {"core", "models", "__init__"},
    "texts": {"core", "models", "content", "language", "runtime", "__init__"},
    **{spoke: BELOW_SPOKES | {spoke} for spoke in SPOKES},
    "console": {"core", "__init__"},
    "progress": {"core", "__init__"},
    "places": {"core", "models", "__init__"},
    "arguments": {"core", "models", "places", "__init__"},
    "catalogue": BELOW_SPOKES | {*SPOKES},
    "pipeline": BELOW_SPOKES | {"arguments", "catalogue", "console", "places", "progress", *SPOKES},
    "bench": MAKERS | {"bench"},
    "cli_options": {"core", "models", "places", "__init__"},
    "cli_data": MAKERS | {"cli_options"},
    "cli_bench": VERBS | {"bench"},
    **dict.fromkeys(
        (
            "cli_check",
            "cli_distill",
            "cli_doctor",
            "cli_items",
            "cli_load",
            "cli_recommend",
            "cli_serve",
            "cli_sids",
        ),
        VERBS,
    ),
    "cli": BELOW_SPOKES
    | {
        "console",
        "places",
        "pipeline",
        "cli_bench",
        "cli_check",
        "cli_data",
        "cli_distill",
        "cli_doctor",
        "cli_items",
        "cli_load",
        "cli_options",
        "cli_recommend",
        "cli_serve",
        "cli_sids",
        *SPOKES,
    },
    "__main__": {"cli"},
    "__init__": set(),
}
CORE_PACKAGES = {"msgspec", "numpy", "pyarrow", "psutil", "rbserve"}
HEAVY = ("torch", "transformers", "accelerate", "onnx", "duckdb", "matplotlib", "scipy")


def _modules() -> list[tuple[str, Path]]:
    """(layer, file) of every module of the package."""
    files = [(file.relative_to(ROOT / "rbserve").parts[0].removesuffix(".py"), file)
             for file in (ROOT / "rbserve").rglob("*.py")]  # fmt: skip
    for folder in ("train", "exporters", "profilers"):
        files += [(folder, file) for file in (ROOT / folder).rglob("*.py")]
    return files


def _imports(file: Path) -> set[str]:
    """Full names of what a file imports, at any depth of the code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize(("layer", "file"), _modules(), ids=lambda value: str(getattr(value, "name", value)))
def test_a_module_imports_only_the_layers_below_it(layer: str, file: Path) -> None:
    for name in _imports(file):
        parts = name.split(".")
        if parts[0] != "rbserve" or len(parts) < 2:
            continue
        target = parts[1] if parts[1] in ALLOWED else "__init__"
        assert target in ALLOWED[layer], f"{file.relative_to(ROOT)} ({layer}) imports {name}"


def test_core_needs_only_its_few_packages() -> None:
    for layer, file in _modules():
        if layer == "core":
            roots = {name.split(".")[0] for name in _imports(file)}
            assert roots <= CORE_PACKAGES | set(sys.stdlib_module_names), file


@pytest.mark.parametrize("module", ["rbserve.cli", "rbserve.pipeline", "rbserve.runtime", "rbserve.models.zoo",
                                    "rbserve.server.run", "rbserve.profilers.harness",
                                    "rbserve.profilers.gate_run", "rbserve.profilers.choice",
                                    "rbserve.bench.worker"])  # fmt: skip
def test_importing_what_serves_and_profiles_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_is_pickled() -> None:
    for _, file in _modules():
        assert not {"pickle", "torch.save", "joblib"} & _imports(file), file
        text = file.read_text()
        assert "torch.save(" not in text, file
        assert "torch.load(" not in text, file
