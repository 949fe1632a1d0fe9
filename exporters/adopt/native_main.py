"""The process that adopts a model of a library: an AdoptJob on standard input, an AdoptFailure or nothing on output."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from rbserve.core.errors import RbserveError, UsageError, memory_told, needs_extra
from rbserve.data.request_set import open_request_set
from rbserve.exporters.adopt.adopt import fill
from rbserve.exporters.adopt.native_process import AdoptFailure, AdoptJob
from rbserve.runtimes.request_scores import reason_of


def adopt(job: AdoptJob) -> AdoptFailure | None:
    """Fills the folder of a job; what went wrong, or None."""
    try:
        _fill(job)
    except RbserveError as error:
        return AdoptFailure(type(error).__name__, error.message, error.hint)
    except OSError as error:
        return AdoptFailure(
            "OSError", error.strerror or str(error), errno=error.errno or 0, file=error.filename
        )
    return None


def _fill(job: AdoptJob) -> None:
    """Fills the folder of a job; raises RbserveError or OSError, whatever the library raises."""
    advice = memory_told(f"adopting {job.name}", "fewer rows of the table, or a machine with more memory")
    try:
        with advice, needs_extra("adopt", "adopting a model"):
            fill(job.source, open_request_set(Path(job.requests)), job.options, Path(job.folder), job.name)
    except (RbserveError, OSError):
        raise
    except Exception as error:  # each library has its own
        raise UsageError(
            f"{job.source} cannot be adopted: {reason_of(error)}", "the file is damaged: save it anew"
        ) from error


def main() -> None:
    """Does the job; what a library prints on standard output goes to standard error."""
    answer = os.dup(1)
    os.dup2(2, 1)
    failure = adopt(msgspec.json.decode(sys.stdin.buffer.read(), type=AdoptJob))
    if failure is not None:
        os.write(answer, msgspec.json.encode(failure))


if __name__ == "__main__":
    main()
