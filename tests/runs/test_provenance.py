"""The command line and the state of a working directory."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from rbserve.runs.provenance import GitState, command_line, git_state


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_repository_is_its_commit_and_whether_tracked_files_differ(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None
    git(tmp_path, "init", "--quiet")
    assert git_state(tmp_path) is None  # no commit yet
    (tmp_path / "model.py").write_text("1")
    git(tmp_path, "add", "model.py")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "notes").write_text("untracked files are nobody's change")
    assert git_state(tmp_path) == GitState(commit, dirty=False)
    (tmp_path / "model.py").write_text("2")
    assert git_state(tmp_path) == GitState(commit, dirty=True)


def test_without_git_there_is_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path) is None


@pytest.mark.parametrize("program", ["/usr/bin/rbserve", "/lib/rbserve/__main__.py"])
def test_the_command_line_is_told_as_it_is_typed(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [program, "profile", "--model", "gdcn"])
    assert command_line() == ["rbserve", "profile", "--model", "gdcn"]
