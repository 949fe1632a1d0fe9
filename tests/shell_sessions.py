"""The shell sessions of a page of the docs, run line by line as a reader does, in a folder of their own."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parent.parent
STOP = ["kill", "%1"]


def sections(page: Path) -> dict[str, str]:
    """The text of each section of a page, by its heading; what comes before the first is that of ""."""
    parts = re.split(r"^## (.+)\n", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(["", *parts[1::2]], parts[::2], strict=True))


def shell_lines(section: str) -> list[list[str]]:
    """The commands in the shell blocks of a section, as words; a command in the background ends with "&"."""
    found = re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return [shlex.split(line, comments=True) for block in found for line in block.splitlines()]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Shell:
    """Runs lines in `folder`, which is the home directory too and sees docs/ as a checkout's root does.

    `extra` has words that are put behind a line by what it begins with: {"rbserve profile": ["--runs", "3"]}. Port 8000
    becomes a free one. What is left in the background is stopped at the end.
    """

    def __init__(self, folder: Path, extra: Mapping[str, Sequence[str]] | None = None) -> None:
        self._folder, self._extra, self._port = folder, extra or {}, free_port()
        self._server: subprocess.Popen[str] | None = None
        if not (folder / "docs").exists():
            (folder / "docs").symlink_to(ROOT / "docs")

    def __enter__(self) -> Shell:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def run(self, words: Sequence[str], *exit_codes: int) -> subprocess.CompletedProcess[str]:
        """Runs a line to its end, and expects one of the exit codes, 0 where none is given."""
        done = subprocess.run(
            self._command(words), cwd=self._folder, capture_output=True, text=True, env=self._environment
        )
        said = f"{shlex.join(words)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert done.returncode in (exit_codes or (0,)), said
        return done

    def start(self, words: Sequence[str]) -> None:
        """Starts a line in the background; what it prints is dropped."""
        assert self._server is None
        self._server = subprocess.Popen(
            self._command(words), cwd=self._folder, env=self._environment, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def stop(self) -> None:
        """Ends what is in the background and expects that it ends by itself, with exit code 0."""
        if self._server is not None:
            self._server.terminate()
            code = self._server.wait(timeout=60)
            self._server = None
            assert code == 0

    def _command(self, words: Sequence[str]) -> list[str]:
        begin = " ".join(words[:2])
        programme = {"rbserve": [sys.executable, "-m", "rbserve"], "python": [sys.executable]}[words[0]]
        rest = [str(self._port) if word == "8000" else word for word in words[1:] if word != "&"]
        if begin.endswith("/ask.py"):
            rest += ["--url", f"127.0.0.1:{self._port}"]
        return [*programme, *rest, *self._extra.get(begin, [])]

    @property
    def _environment(self) -> dict[str, str]:
        return os.environ | {"RBSERVE_HOME": str(self._folder), "OMP_NUM_THREADS": "1"}
