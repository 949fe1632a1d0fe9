"""The command line as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


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
