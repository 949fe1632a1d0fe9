"""The command line: verbs that parse, call one method of `rbserve.Home`, and print.

Data goes to standard output (`--json` where it makes sense), messages and progress to standard error.
Exit codes: 0 done, 1 failure, 2 usage, 130 interrupted; `check` adds one for each verdict.

Verbs are imported for their options, and import what they work with when they are called: `rbserve --help` must load
neither NumPy nor pyarrow.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from rbserve.cli.backbones import backbones
from rbserve.cli.bench import bench
from rbserve.cli.check import check
from rbserve.cli.datasets import datasets
from rbserve.cli.distill import distill
from rbserve.cli.doctor import doctor
from rbserve.cli.export import export
from rbserve.cli.items import items
from rbserve.cli.load import load
from rbserve.cli.models import models
from rbserve.cli.prepare import prepare
from rbserve.cli.profile import profile
from rbserve.cli.recommend import recommend
from rbserve.cli.records import with_records
from rbserve.cli.report import report
from rbserve.cli.serve import serve
from rbserve.cli.sids import sids
from rbserve.cli.train import train
from rbserve.cli.verify import verify
from rbserve.core.errors import UNENDING, Interrupted, RbserveError, memory_told
from rbserve.progress import say

Verb = Callable[..., Any] | typer.Typer

PANELS: dict[str, tuple[Verb, ...]] = {
    "Data": (datasets, prepare, sids),
    "Train": (models, backbones, train, distill, export),
    "Measure": (doctor, profile, report),
    "Choose": (recommend,),
    "Serve": (serve, verify, load, items),
    "Automate": (bench, check),
}
"""The verbs below what one wants to do, in the order in which one does it."""


class _InOrder(TyperGroup):
    """Lists commands in the order of PANELS; Typer lists groups of commands behind all others."""

    def list_commands(self, ctx: Any) -> list[str]:
        order = [_name(verb) for verbs in PANELS.values() for verb in verbs]
        return sorted(super().list_commands(ctx), key=order.index)


def _name(verb: Verb) -> str:
    return str(verb.info.name) if isinstance(verb, typer.Typer) else verb.__name__


app = typer.Typer(
    name="rbserve",
    cls=_InOrder,
    help="Which recommender should I serve on my CPUs, at what precision, and what accuracy do I give up?",
    epilog="Start with: rbserve profile --model gdcn",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

for panel, verbs in PANELS.items():
    for verb in verbs:
        if isinstance(verb, typer.Typer):
            app.add_typer(verb, rich_help_panel=panel)
        else:
            app.command(rich_help_panel=panel)(with_records(verb))


def main() -> NoReturn:
    """Entry point: every user mistake becomes one line and a hint, never a traceback."""
    try:
        with memory_told("working", "a smaller row, or a machine with more memory"):
            code = app(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except RbserveError as error:
        _fail(error.message, error.hint, error.exit_code)
    except TyperException as error:
        _fail(error.format_message(), "--help shows how", getattr(error, "exit_code", 2))
    except OSError as error:
        from rbserve.core.files import file_error

        usage_error = file_error(error)
        _fail(usage_error.message, usage_error.hint, usage_error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", None, 130)


def _fail(message: str, hint: str | None, code: int) -> NoReturn:
    say(f"error: {message}")
    if hint:
        say(f"hint: {hint}")
    if code == Interrupted.exit_code and any(
        thread.name.startswith(UNENDING) for thread in threading.enumerate()
    ):
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
