"""Every part of serving.py runs, on a small model and for a moment, and finds that nothing is lost."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset
from rbserve.machine.environment import allowed_cores

SCRIPT = Path(__file__).with_name("serving.py")
SHORT = ("--dataset", "planted", "--times", "3", "--rounds", "2", "--requests", "2000")


@pytest.mark.slow
@pytest.mark.skipif(len(allowed_cores()) < 2, reason="one core serves, another asks")
def test_every_part_runs_and_nothing_is_lost(trained: Artifact, planted: Dataset, tmp_path: Path) -> None:
    shutil.copytree(planted.path, tmp_path / "data" / "planted")
    shutil.copytree(trained.path, tmp_path / "artifacts" / "planted" / "dnn")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *SHORT],
        env=os.environ | {"RBSERVE_HOME": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert all(line.startswith("| ") for line in lines), done.stdout
    for said in (
        "overhead",
        "candidates a second",
        "twice what it can do",
        "3 stops by SIGTERM",
        "mixed requests",
    ):
        assert said in done.stdout
    assert "exit codes {0}" in done.stdout
    assert (
        len(re.findall(r"3 reloads under load, \d workers? \| .*failed: none, refused: none", done.stdout))
        == 2
    )
    assert re.search(r"kill -9 .*replaced: 1", done.stdout)
