"""The runtime python: a function of the user's own, `module:factory`, that scores the candidates of a request.

The factory takes no argument and returns a function: a request (arrays by the names of the model's inputs) -> a score
for each candidate. Opening such a model runs the user's code; its artefact holds nothing but the name of the factory.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import RbserveError, UsageError
from rbserve.core.requests import Request
from rbserve.core.types import Ranker, Scorer
from rbserve.core.variants import Variant
from rbserve.data.artifact import Artifact
from rbserve.runtimes.adopted import AdoptedScorer, slate_size

HINT = "run the command in the folder of the module, or install its package"
EXAMPLE = "MODULE:FACTORY, such as shop.ranker:make, whose factory takes no argument and returns a function"

Function = Callable[[Request], Any]
"""Arrays by name -> scores, one for each candidate."""


def unavailable(artifact: Artifact, variant: Variant) -> str | None:  # noqa: ARG001
    """Nothing: whether the user's module is there is only known once it is imported, which runs it."""
    return None


def open(artifact: Artifact, variant: Variant, threads: int, user_cache: int) -> Scorer | Ranker:  # noqa: ARG001
    """The scorer over the user's function; runs the module and its factory. The function chooses its own threads."""
    assert artifact.manifest.adopted is not None
    assert artifact.manifest.adopted.callable is not None
    name, signature = artifact.manifest.adopted.callable, artifact.signature
    function = load_function(name)
    return AdoptedScorer(
        lambda request: [call_function(function, name, request, slate_size(request, signature))], signature
    )


def load_function(name: str) -> Function:
    """Imports `module:factory`, from the working directory or installed, and calls the factory.

    UsageError where there is no such module or factory, RbserveError where the user's code fails.
    """
    module, _, factory = name.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *factory.split("."))):
        raise UsageError(f"{name} names no factory of a Python module", EXAMPLE)
    made = _run(f"the factory {name}", _find_factory(name, module, factory))
    if not callable(made):
        raise UsageError(f"the factory {name} returned {_kind(made)}, which is no function", EXAMPLE)
    return made


def call_function(function: Function, name: str, request: Request, slate: int) -> NDArray[Any]:
    """The scores [N] of the user's function for a request of `slate` candidates; RbserveError for any other answer."""
    answer = _run(f"the function of {name}", lambda: function(request))
    try:
        scores = np.asarray(answer, np.float64)
    except (TypeError, ValueError):
        raise RbserveError(
            f"the function of {name} returned {_kind(answer)}, which is no array of numbers"
        ) from None
    if scores.shape != (slate,):
        raise RbserveError(
            f"the function of {name} returned scores of shape {list(scores.shape)} for {slate} candidates",
            "it returns one score for each candidate, in their order",
        )
    if not np.isfinite(scores).all():
        bad = int((~np.isfinite(scores)).sum())
        raise RbserveError(f"the function of {name} returned NaN or infinity for {bad} of {slate} candidates")
    return scores


def _find_factory(name: str, module: str, factory: str) -> Callable[[], object]:
    """The factory itself, once its module is imported."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()  # a module that was written after the process began
    try:
        target: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise _failure(f"importing {module}", error) from None
        raise UsageError(f"there is no Python module {error.name}, which {name} names", HINT) from None
    except (Exception, SystemExit) as error:  # noqa: BLE001  (code of the user)
        raise _failure(f"importing {module}", error) from None
    for part in factory.split("."):
        if not hasattr(target, part):
            raise UsageError(f"the Python module {module} has no {factory}", EXAMPLE)
        target = getattr(target, part)
    if not callable(target):
        raise UsageError(f"{name} is {_kind(target)}, which is no factory", EXAMPLE)
    return target  # type: ignore[no-any-return]


def _run(doing: str, code: Callable[[], object]) -> object:
    """What code of the user's returns; RbserveError with its own words in one line where it fails."""
    try:
        return code()
    except RbserveError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001  (code of the user)
        raise _failure(doing, error) from None


def _failure(doing: str, error: BaseException) -> RbserveError:
    words = " ".join(str(error).split())
    return RbserveError(
        f"{doing} failed: {type(error).__name__}{f': {words}' if words else ''}", "mend the Python code"
    )


def _kind(value: object) -> str:
    return f"a {type(value).__name__}" if value is not None else "nothing"
