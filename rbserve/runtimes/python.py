"""The runtime python: a function of the user's own, `module:factory`, that scores the candidates of a request.

The factory takes no argument and returns a function: a request (arrays by the names of the model's inputs) -> a score
for each candidate. Opening such a model runs the user's code; its artefact holds nothing but the name of the factory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import RbserveError, UsageError
from rbserve.core.requests import Request
from rbserve.core.types import Ranker, Scorer
from rbserve.core.user_code import find_callable, kind_of, run_user_code
from rbserve.core.variants import Variant
from rbserve.data.artifact import Artifact
from rbserve.runtimes.adopted import AdoptedScorer, slate_size

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
    made = run_user_code(f"the factory {name}", find_callable(name, "factory", EXAMPLE))
    if not callable(made):
        raise UsageError(f"the factory {name} returned {kind_of(made)}, which is no function", EXAMPLE)
    return made


def call_function(function: Function, name: str, request: Request, slate: int) -> NDArray[Any]:
    """The scores [N] of the user's function for a request of `slate` candidates; RbserveError for any other answer."""
    answer = run_user_code(f"the function of {name}", lambda: function(request))
    try:
        scores = np.asarray(answer, np.float64)
    except (TypeError, ValueError):
        raise RbserveError(
            f"the function of {name} returned {kind_of(answer)}, which is no array of numbers"
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
