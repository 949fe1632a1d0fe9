"""Arguments are checked before anything is prepared, downloaded, trained or measured for them.

What a model can do is known of a zoo row without an artefact of it: its task, its variants, its precisions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rbserve.core.distillation import FROM
from rbserve.core.errors import UsageError, unknown_name
from rbserve.core.variants import check_precisions, possible_variants, precisions_of
from rbserve.data.artifact import Artifact, open_artifact
from rbserve.home.places import RANDOM, artifact_path, is_path, is_trained
from rbserve.models.configs import EndpointConfig, LanguageConfig
from rbserve.models.zoo import find_model


class Abilities(NamedTuple):
    """What a model can do, whether or not there is an artefact of it: `variants` are all that it can have."""

    name: str
    task: str
    variants: list[str]
    is_language_model: bool
    is_endpoint: bool

    @property
    def precisions(self) -> list[str]:
        """The precisions that the model can be exported in, such as fp32 and int8."""
        return precisions_of(self.variants)


def abilities(model: str, dataset: str, random: bool = False) -> Abilities:
    """Those of the artefact that a path or a name means, else of the zoo row. UsageError for an unknown name."""
    if is_path(model):
        return abilities_of(open_artifact(Path(model)))
    spec = find_model(model.partition(FROM)[0])
    name = f"{model}{RANDOM * random}"
    if is_trained(name, dataset):
        return abilities_of(open_artifact(artifact_path(name, dataset)))
    language, endpoint = isinstance(spec.config, LanguageConfig), isinstance(spec.config, EndpointConfig)
    return Abilities(name, spec.task, possible_variants(spec.task, language, endpoint), language, endpoint)


def abilities_of(artifact: Artifact) -> Abilities:
    """What an artefact can do."""
    manifest = artifact.manifest
    return Abilities(
        artifact.name, manifest.task, artifact.can_have, artifact.is_language_model, artifact.is_endpoint
    )


def check_variants_of(model: Abilities, variants: Iterable[str]) -> None:
    """Raises UsageError for a variant that the model cannot have."""
    for variant in variants:
        if variant not in model.variants:
            raise unknown_name(f"variant of {model.name}", variant, model.variants)


def check_precisions_of(model: Abilities, precisions: Sequence[str]) -> None:
    """Raises UsageError for a precision that the model cannot be exported in."""
    check_precisions(precisions)
    for precision in precisions:
        if model.is_endpoint:
            raise UsageError(f"{model.name} answers from an endpoint; there is nothing to export")
        if precision not in model.precisions:
            raise UsageError(
                f"{model.name} cannot be exported in {precision}",
                f"precisions of a model like it: {', '.join(model.precisions)}",
            )
