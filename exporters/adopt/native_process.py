"""Adopts a model of a library in a process of its own: a damaged file can end the process of the library that reads it.

`fill_in_process` starts `python -m rbserve.exporters.adopt.native_main`, which fills the folder of an artefact and says
on its standard output what kept it from that. What the libraries print is not shown.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from rbserve.core import errors
from rbserve.core.adoption import AdoptOptions
from rbserve.core.errors import RbserveError, UsageError
from rbserve.data.request_set import RequestSet

MAIN = "rbserve.exporters.adopt.native_main"


class AdoptJob(msgspec.Struct, frozen=True):
    """What to adopt: the model's file, the request set's directory, and the artefact's name and folder."""

    source: str
    requests: str
    options: AdoptOptions
    folder: str
    name: str


class AdoptFailure(msgspec.Struct, frozen=True):
    """Why a model was not adopted: the class of an error in `core.errors` or "OSError", and what it says."""

    error: str
    message: str
    hint: str | None = None
    errno: int | None = None
    file: str | None = None

    def raised(self) -> Exception:
        """The error that the process reported."""
        if self.errno is not None:
            return OSError(self.errno, self.message, self.file)
        kind: type[RbserveError] = getattr(errors, self.error)
        return kind(self.message, self.hint)


def fill_in_process(
    source: str, requests: RequestSet, options: AdoptOptions, folder: Path, name: str
) -> None:
    """Fills `folder` with the artefact of a model, in a process of its own.

    Raises what that process reports, and UsageError where the library ends it.
    """
    job = AdoptJob(source, str(requests.path), options, str(folder), name)
    done = subprocess.run([sys.executable, "-m", MAIN], input=msgspec.json.encode(job), capture_output=True)
    if done.stdout:
        raise msgspec.json.decode(done.stdout, type=AdoptFailure).raised()
    if done.returncode:
        raise UsageError(
            f"{source} cannot be adopted: its library crashed while it was read or asked ({_ending(done.returncode)})",
            "the file is damaged, or memory was short: save it anew",
        )


def _ending(code: int) -> str:
    """How a process ended: by a signal, by its name, or with a code."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
