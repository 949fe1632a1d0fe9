"""What was asked for, and from which state of somebody's code: the command line and git."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec


class GitState(msgspec.Struct, frozen=True):
    """The commit that is checked out, and whether tracked files differ from it."""

    commit: str
    dirty: bool


def command_line() -> list[str]:
    """The words of this process's command line; `python -m rbserve` is `rbserve`."""
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    return [name, *sys.argv[1:]]


def git_state(folder: Path) -> GitState | None:
    """The state of the repository that a folder is in; None outside of one, before its first commit, or without git."""
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None or changes is None else GitState(commit, dirty=bool(changes))


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            timeout=10,
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
