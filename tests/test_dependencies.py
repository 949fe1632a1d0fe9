"""What pyproject.toml requires is what the code imports, neither more nor less."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("rbserve", "train", "exporters", "profilers")
OWN = {"rbserve", *(file.stem for file in (ROOT / "tests").rglob("*.py"))}
MODULES = {"pyyaml": "yaml", "mlcommons-loadgen": "mlperf_loadgen", "scikit-learn": "sklearn",
           "faiss-cpu": "faiss", "import-linter": "importlinter", "xgboost-cpu": "xgboost"}  # fmt: skip
"""Distributions whose module has another name than their own."""

COMMANDS = {"build", "mypy", "pre-commit", "ruff"}
PLUGINS = {"pytest-timeout": "timeout = ", "pytest-xdist": "-n auto"}
"""Distributions that are not imported: run by name, or switched on by a word of pyproject.toml or the Makefile."""

THROUGH_OTHERS = {
    "gguf": "transformers reads GGUF weights with it",
    "onnx-ir": "onnxruntime's rounding of weights in blocks imports it",
    "flask": "moto's server is made with it",
    "flask-cors": "moto's server is made with it",
    "onnxscript": "torch's exporter of programs imports it",
    "s3fs": "fsspec opens s3:// with it",
    "setuptools": "the wheel is built with it, without an environment of its own",
}
LIBRARIES_OF_MODELS = {
    "catboost": "whoever has a model of CatBoost has it",
    "xgboost": "whoever has a model of XGBoost has it, in one of several distributions",
}
UNDECLARED = {
    "_typeshed": "mypy's own, imported where types are checked",
    "fastapi": "tests/benchmarks/serving.py serves with it, by an interpreter that has it",
    "litserve": "tests/benchmarks/serving.py serves with it, by an interpreter that has it",
    "pydantic": "comes with fastapi",
    "slowed_head": "an example of docs/examples/onnx, whose folder tests/benchmarks/gate_curve.py adds to the path",
}


def _project() -> dict[str, object]:
    project: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project


def _required(lines: list[str]) -> set[str]:
    """The distributions of a list of requirements, without rbserve itself."""
    names = {canonicalize_name(Requirement(line).name) for line in lines}
    return {str(name) for name in names - {"rbserve"}}


def _extras() -> dict[str, set[str]]:
    """The distributions of each extra; those of no extra are `base`."""
    project = _project()
    extras = project["optional-dependencies"]
    assert isinstance(extras, dict)
    base = project["dependencies"]
    assert isinstance(base, list)
    return {"base": _required(base), **{name: _required(lines) for name, lines in extras.items()}}


@cache
def _imported(*folders: str) -> set[str]:
    """The packages that files import at any depth of their code, but the standard library and the project's own."""
    names: set[str] = set()
    for file in (file for folder in folders for file in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - OWN


def _module(distribution: str) -> str:
    return MODULES.get(distribution, distribution.replace("-", "_"))


def _product() -> set[str]:
    return {name for extra, names in _extras().items() if extra != "dev" for name in names}


@pytest.mark.parametrize("distribution", sorted(_product()))
def test_what_the_product_requires_it_imports(distribution: str) -> None:
    assert _module(distribution) in _imported(*PRODUCT) or distribution in THROUGH_OTHERS


@pytest.mark.parametrize("distribution", sorted(_extras()["dev"] - _product()))
def test_what_development_requires_is_used(distribution: str) -> None:
    words = "".join(
        (ROOT / name).read_text() for name in ("Makefile", ".pre-commit-config.yaml", "pyproject.toml")
    )
    text = words + (ROOT / "CONTRIBUTING.md").read_text() + (ROOT / "tests" / "wheel_test.py").read_text()
    if distribution in COMMANDS:
        assert re.search(rf"(\$\(BIN\)/|bin/|\"-m\", \")?{distribution}\b", text)
    elif distribution in PLUGINS:
        assert PLUGINS[distribution] in words
    elif distribution not in THROUGH_OTHERS:
        tests = "".join(file.read_text() for file in (ROOT / "tests").rglob("*.py"))
        module = _module(distribution)
        assert module in _imported("tests") or f'importorskip("{module}"' in tests


def test_what_is_imported_is_required() -> None:
    extras = _extras()
    product = {_module(name) for name in _product()}
    assert _imported(*PRODUCT) - product - {"_typeshed"} - LIBRARIES_OF_MODELS.keys() == set()
    assert (
        _imported("tests") - product - {_module(name) for name in extras["dev"]} - UNDECLARED.keys() == set()
    )
    assert UNDECLARED.keys() <= _imported("tests", *PRODUCT), "an exception that nothing needs any more"


def test_what_is_required_is_pinned_to_a_release_that_it_admits() -> None:
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name, _, version = line.partition("==")
        pins[canonicalize_name(name)] = version
    project = _project()
    extras = project["optional-dependencies"]
    base = project["dependencies"]
    assert isinstance(extras, dict)
    assert isinstance(base, list)
    for line in [*base, *(line for lines in extras.values() for line in lines)]:
        requirement = Requirement(line)
        if requirement.name != "rbserve":
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), line
