"""Servers in processes of their own, for tests."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from rbserve.data.artifact import Artifact

SERVE = """
import sys
from pathlib import Path
from rbserve.core.errors import RbserveError
from rbserve.server.api.options import ServerOptions
from rbserve.server.scoring import reload
from rbserve.server.scoring.reload import ServedVariant, Opening
from rbserve.server.serve import serve
{before}
opening = Opening([ServedVariant(Path(one), {variant!r}) for one in {paths!r}])
try:
    serve(opening, ServerOptions(**{options!r}))
except RbserveError as error:
    print(error.message, "/", error.hint, file=sys.stderr)
    sys.exit(error.exit_code)
{after}
"""


class Process:
    """A running server and its announced address; `before` is what its workers said first."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr
        assert process.stdout
        self.process = process
        self.stdout, self.stderr = process.stdout, process.stderr
        self.before: list[str] = []
        self.announcement = self.stderr.readline().strip()
        while self.announcement.startswith(("worker", "warning")):
            self.before.append(self.announcement)
            self.announcement = self.stderr.readline().strip()
        self.url = self.announcement.rpartition(" ")[2]

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        """Exit code, and what else it said on stdout and stderr."""
        self.process.send_signal(sig)
        return self.end()

    def end(self) -> tuple[int, str, str]:
        """The same, of a process that ends by itself."""
        # Not communicate(): it would miss what is already buffered behind the announcement.
        out, err = self.stdout.read(), self.stderr.read()
        return self.process.wait(timeout=20), out, err


@contextlib.contextmanager
def serving(
    *artifacts: Artifact, before: str = "", after: str = "", variant: str = "onnx-fp32", **options: Any
) -> Iterator[Process]:
    """A server of a variant of the artefacts on a port of its own, unless `options` (of `ServerOptions`) name one."""
    program = SERVE.format(
        paths=[str(one.path) for one in artifacts],
        options={"port": 0} | options,
        before=before,
        after=after,
        variant=variant,
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Process(process)
        finally:
            process.kill()
