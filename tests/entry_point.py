"""The command line as a user starts it: in a process of its own, or in this one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rbserve.cli import app


def rbserve(
    *words: str, home: Path, check: int | None = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs the command line in `home` and expects an exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "rbserve", *words],
        capture_output=True,
        text=True,
        env=os.environ | {"RBSERVE_HOME": str(home), "OMP_NUM_THREADS": "1"} | environment,
        cwd=home,
    )
    assert "Traceback" not in done.stderr, done.stderr
    if check is not None:
        assert done.returncode == check, done.stderr
    return done


def run_here(monkeypatch: pytest.MonkeyPatch, *words: str) -> object:
    """Runs the command line in this process and returns its exit code. Its output goes to this process's streams."""
    monkeypatch.setattr(sys, "argv", ["rbserve", *words])
    with pytest.raises(SystemExit) as left:
        app.main()
    return left.value.code
