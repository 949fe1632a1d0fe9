"""The command line as a user starts it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

# How far the work is, every ten seconds: whether such a line comes depends on what else the cores do.
PROGRESS = re.compile(
    r"^ *[a-z]+ [^\n:]*: (?:at work for \d|[\d,]+ (?:of [\d,]+ )?[a-z])[^\n]*\n", re.MULTILINE
)


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
    done.stderr = PROGRESS.sub("", done.stderr)
    if check is not None:
        assert done.returncode == check, done.stderr
    return done
