"""The command line: verbs that parse, call one method of `rbserve.Home`, and print.

Data goes to standard output (`--json` where it makes sense), messages and progress to standard error.
Exit codes: 0 done, 1 failure, 2 usage, 130 interrupted; `check` adds one for each verdict.

A verb is the function, or the group of verbs, that has the name of its module. The module is imported when the verb is
called, and imports what it works with when it runs: `rbserve --help` loads neither NumPy nor pyarrow.
"""

from __future__ import annotations

import os
import sys
import threading
from importlib import import_module
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from rbserve.core.errors import UNENDING, Interrupted, RbserveError, memory_told
from rbserve.progress import say

PANELS: dict[str, dict[str, str]] = {
    "Data": {
        "datasets": "List the data sets; `show NAME` inspects one, `export NAME` writes its rows.",
        "prepare": "Turn raw files into a clean data set with a training, a validation and a test split.",
        "sids": "Give every item a semantic identifier, for models that read or generate them.",
    },
    "Train": {
        "models": "List the models; `show MODEL` lists the options of one.",
        "backbones": "List the language models that a recipe takes by name.",
        "train": "Train a model on a data set.",
        "distill": "Train a small, fast model on the scores of a slow one.",
        "adopt": "Take in a model of yours (ONNX, trees, a reranker) and a table of its requests.",
        "export": "Write ONNX files and check that they score like the trained model.",
    },
    "Measure": {
        "doctor": "Find what disturbs a profile on this machine, what is missing, and what helps.",
        "profile": "Measure latency and accuracy of each variant of a model, making what is missing.",
        "report": "Draw the accuracy-vs-latency front of the newest profile of every model.",
    },
    "Choose": {
        "recommend": "Name the most accurate variant that meets a latency objective, and why the others do not.",
        "size": "Say how many replicas a rate of requests takes, by simulating the server's queue.",
    },
    "Serve": {
        "serve": "Serve models over HTTP: scores, or recommendations where a model ranks the catalogue.",
        "verify": "Compare a server with the model itself: scores, and the time that HTTP adds.",
        "load": "Measure a server's latency under a load that does not wait for it.",
        "items": "Add items to a trained model without training, or retire some.",
    },
    "Share": {
        "push": "Upload data sets, models and runs to a store, which other machines share.",
        "pull": "Bring data sets, models and runs from a store, and check every file.",
    },
    "Automate": {
        "bench": "Measure many models on many data sets in every variant.",
        "check": "Fail where a changed model is slower, larger or less accurate than before; for CI.",
    },
}
"""The verbs and what they do, below what one wants to do, in the order in which one does it."""


class VerbGroup(TyperGroup):
    """Holds summaries of the verbs; the verb that is called is imported."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The name, the command and the arguments of the verb that `args` call."""
        name, summary, rest = super().resolve_command(ctx, args)
        return name, summary and load_verb(str(summary.name)), rest


def load_verb(name: str) -> Any:
    """The command of a verb, from its module."""
    from rbserve.cli.records import with_records

    verb = getattr(import_module(f"rbserve.cli.{name}"), name)
    if not isinstance(verb, typer.Typer):
        function, verb = verb, typer.Typer(add_completion=False)
        verb.command(name)(with_records(function))
    return typer.main.get_command(verb)


app = VerbGroup(
    name="rbserve",
    commands={
        name: TyperCommand(name, help=summary, rich_help_panel=panel)
        for panel, verbs in PANELS.items()
        for name, summary in verbs.items()
    },
    help="Which recommender should I serve on my CPUs, at what precision, and what accuracy do I give up?",
    epilog="Start with: rbserve profile --model gdcn",
    no_args_is_help=True,
)


def main() -> NoReturn:
    """Entry point: every user mistake becomes one line and a hint, never a traceback."""
    try:
        with memory_told("working", "a smaller row, or a machine with more memory"):
            code = app(standalone_mode=False)
        if code == Interrupted.exit_code:  # typer's answer to Ctrl-C
            raise KeyboardInterrupt
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
    say(f"error: {on_one_line(message)}")
    if hint:
        say(f"hint: {on_one_line(hint)}")
    if code == Interrupted.exit_code and any(
        thread.name.startswith(UNENDING) for thread in threading.enumerate()
    ):
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def on_one_line(text: str) -> str:
    """A message without line breaks and control characters, which names in a user's files can have."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in " ".join(text.split()))


if __name__ == "__main__":
    main()
