"""Metrics of the user's own: functions `module:function` of labels, scores and users [n] that return a number."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rbserve.core.errors import RbserveError, UsageError
from rbserve.core.user_code import find_callable, kind_of, run_user_code
from rbserve.stats.metrics import Rows

EXAMPLE = "MODULE:FUNCTION, such as shop.metrics:revenue, a function of (labels, scores, users) that returns a number"

OwnMetrics = dict[str, Callable[..., object]]
"""Functions by their name `module:function`."""


def load_metrics(names: Sequence[str]) -> OwnMetrics:
    """The functions of `module:function`, imported from the working directory or installed.

    UsageError where there is no such module or function, RbserveError where importing it fails.
    """
    return {name: find_callable(name, "metric", EXAMPLE) for name in names}


def require_pairs(names: Sequence[str], ranks: bool) -> None:
    """UsageError where metrics of one's own are asked of a model that ranks the catalogue."""
    if names and ranks:
        raise UsageError(
            f"--metric {names[0]} takes labels and scores, but the model ranks the catalogue and has none",
            "leave out --metric",
        )


def compute_own(metrics: OwnMetrics, rows: Rows) -> dict[str, float | None]:
    """The value of each metric of a variant's test rows; None for NaN, which says that it is not defined.

    RbserveError where a function fails or returns no number.
    """
    return {name: _value(name, metric, rows) for name, metric in metrics.items()}


def _value(name: str, metric: Callable[..., object], rows: Rows) -> float | None:
    labels, scores, users = rows[:3]
    value = run_user_code(f"the metric {name}", lambda: metric(labels, scores, users))
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise RbserveError(f"the metric {name} returned {kind_of(value)}, which is no number", EXAMPLE)
    return None if np.isnan(value) else float(value)
