"""Builds the wheel, installs it without extras in an empty environment, and uses it away from the source.

It proves two things: the wheel holds everything it needs, and profiling and serving an ONNX artefact need
neither torch nor transformers. `make wheel-test` runs it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TINY = ["--set", "hidden=32", "--set", "dim=8", "--epochs", "1"]


def main() -> None:
    """Fails with the output of the step that failed."""
    with tempfile.TemporaryDirectory(prefix="rbserve-wheel-") as name:
        folder = Path(name)
        wheel = _build(folder)
        home = folder / "home"
        home.mkdir()
        environment = os.environ | {"RBSERVE_HOME": str(home)}
        source = [sys.executable, "-m", "rbserve"]
        _run([*source, "train", "--model", "gdcn", "--dataset", "synthetic", *TINY], folder, environment)
        _run([*source, "export", "--model", "gdcn", "--dataset", "synthetic"], folder, environment)

        python = _empty_environment(folder / "venv")
        constraints = ["-c", str(ROOT / "constraints.txt")]
        _run([python, "-m", "pip", "install", "--quiet", *constraints, str(wheel)], folder, environment)
        installed = str(Path(python).with_name("rbserve"))
        assert "profile" in _run([installed, "--help"], folder, environment)
        where = _run(
            [python, "-c", "import rbserve.train; print(rbserve.train.__file__)"], folder, environment
        )
        assert where.startswith(str(folder)), f"the source leaks in: {where}"
        _run(
            [python, "-c", "import importlib.util as u; assert u.find_spec('train') is None"],
            folder,
            environment,
        )
        profile = [
            installed,
            "profile",
            "--model",
            "gdcn",
            "--dataset",
            "synthetic",
            "--processes",
            "1",
            "--runs",
            "20",
        ]
        document = json.loads(_run([*profile, "--json"], folder, environment))
        variants = {result["variant"] for result in document["results"]}
        assert variants == {"onnx-fp32", "onnx-int8"}, f"without torch these were measured: {variants}"
        bench = [
            installed,
            "bench",
            "--models",
            "gdcn",
            "--datasets",
            "synthetic",
            "--processes",
            "1",
            "--runs",
            "20",
        ]
        rows = json.loads(_run([*bench, "--variants", "onnx-int8", "--json"], folder, environment))["rows"]
        assert [row["status"] for row in rows] == ["measured"]
        packages = json.loads(_run([python, "-m", "pip", "list", "--format", "json"], folder, environment))
        heavy = {"torch", "transformers", "onnx", "duckdb"} & {package["name"] for package in packages}
        assert not heavy, f"the base install pulls in {heavy}"
    print(f"{wheel.name}: installed alone, it helps, profiles gdcn, and needs no torch")


def _build(folder: Path) -> Path:
    """The wheel, built from a copy of the tracked sources so that no build directory stays behind."""
    copy = folder / "source"
    for entry in ("rbserve", "train", "exporters", "profilers"):
        shutil.copytree(ROOT / entry, copy / entry, ignore=shutil.ignore_patterns("__pycache__"))
    for entry in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / entry, copy / entry)
    _run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(copy)],
        folder,
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def _empty_environment(path: Path) -> str:
    venv.create(path, with_pip=True)
    return str(path / "bin" / "python")


def _run(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"failed: {' '.join(command)}\n{done.stdout}\n{done.stderr}")
    return done.stdout.strip()


if __name__ == "__main__":
    main()
