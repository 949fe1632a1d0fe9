"""Python code of the user's own, named as `module:function`: imported, run, and its failures told in one line."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rbserve.core.errors import RbserveError, UsageError

HINT = "run the command in the folder of the module, or install its package"


def find_callable(name: str, kind: str, example: str) -> Callable[..., object]:
    """What `module:function` names, once its module is imported from the working directory or from what is installed.

    `kind` is the word for it in errors ("factory"), `example` their hint. UsageError where there is no such module or
    function, RbserveError where importing it fails.
    """
    module, _, path = name.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *path.split("."))):
        raise UsageError(f"{name} names no {kind} of a Python module", example)
    target = _imported(module, name)
    for part in path.split("."):
        if not hasattr(target, part):
            raise UsageError(f"the Python module {module} has no {path}", example)
        target = getattr(target, part)
    if not callable(target):
        raise UsageError(f"{name} is {kind_of(target)}, which is no {kind}", example)
    return target  # type: ignore[no-any-return]


def run_user_code(doing: str, code: Callable[[], object]) -> object:
    """What code of the user's returns; RbserveError with its own words in one line where it fails."""
    try:
        return code()
    except RbserveError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001  (code of the user)
        raise _failure(doing, error) from None


def kind_of(value: object) -> str:
    """What a value is, in a sentence: "a dict", or "nothing"."""
    return f"a {type(value).__name__}" if value is not None else "nothing"


def _imported(module: str, name: str) -> Any:
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()  # a module that was written after the process began
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise _failure(f"importing {module}", error) from None
        raise UsageError(f"there is no Python module {error.name}, which {name} names", HINT) from None
    except (Exception, SystemExit) as error:  # noqa: BLE001  (code of the user)
        raise _failure(f"importing {module}", error) from None


def _failure(doing: str, error: BaseException) -> RbserveError:
    words = " ".join(str(error).split())
    return RbserveError(
        f"{doing} failed: {type(error).__name__}{f': {words}' if words else ''}", "mend the Python code"
    )
