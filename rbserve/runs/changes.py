"""What a run's model has that its zoo row does not: the options that `--set` changed, and a subset of test users."""

from __future__ import annotations

from typing import Any

import msgspec

from rbserve.core.errors import UsageError
from rbserve.models.configs import config_to_dict
from rbserve.models.zoo import find_model
from rbserve.runs.measurement import Measurement

# Where an endpoint is and what it costs are no part of what it answers.
NO_CHANGE = {
    "api_base",
    "key_from",
    "concurrency",
    "usd_per_million_prompt_tokens",
    "usd_per_million_completion_tokens",
}


def changed(measurement: Measurement) -> dict[str, str]:
    """The options of the run's config that differ from its zoo row's, as `--set` takes them.

    Those of a student are from its own row's. Empty for a model that is no row, and for a run file from before configs
    were kept (`knows_config`).
    """
    taught = measurement.distilled
    try:
        row = find_model(taught.student if taught else measurement.model)
    except UsageError:
        return {}
    usual = config_to_dict(row.config)
    return {
        key: _text(value)
        for key, value in sorted(measurement.config.items())
        if key in usual
        and key not in NO_CHANGE
        and msgspec.json.encode(value) != msgspec.json.encode(usual[key])
    }


def knows_config(measurement: Measurement) -> bool:
    """Whether the run file says what the model's config was."""
    return bool(measurement.config)


def options_text(changes: dict[str, str]) -> str:
    """The changes in a line: "vectors=tuned, dim=32"; nothing where there are none."""
    return ", ".join(f"{key}={value}" for key, value in changes.items())


def all_changes(measurement: Measurement) -> dict[str, str]:
    """What was changed of the row's config and, of a student, of the usual way to teach it."""
    taught = measurement.distilled
    return changed(measurement) | (taught.changed if taught else {})


def display_name(measurement: Measurement) -> str:
    """The model, and what was changed of it, or of how it was taught: "dnn-emb (vectors=tuned)"."""
    changes = all_changes(measurement)
    return f"{measurement.model} ({options_text(changes)})" if changes else measurement.model


def _text(value: Any) -> str:
    """A value as `--set KEY=VALUE` reads it."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
