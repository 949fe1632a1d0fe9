"""Reloading: new versions of the models are opened beside the old ones, and replace them once all have passed.

Each is opened from its artefact's directory, warmed up, and checked against the answers it gave when it was exported.
Then all replace the old ones in one step; where one fails, nothing has changed. Until then both are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rbserve.core.errors import ArtifactError, RbserveError, UsageError, first_line
from rbserve.core.files import sha256
from rbserve.core.tasks import TASKS
from rbserve.core.types import Scorer, Vectors
from rbserve.data.artifact import Adopted, Artifact, open_artifact
from rbserve.runtimes.contents import artifact_tokenizer
from rbserve.runtimes.item_vectors import Encode, ItemContent, content_kind, open_content
from rbserve.runtimes.opening import open_ranker, open_scorer
from rbserve.runtimes.texts import text_scorer
from rbserve.server.api.options import Limits
from rbserve.server.api.schema import NOT_PROFILED, Profiled
from rbserve.server.observe.telemetry import Telemetry
from rbserve.server.scoring.adopted import AdoptedScoring
from rbserve.server.scoring.models import Models
from rbserve.server.scoring.request_fields import open_request_fields
from rbserve.server.scoring.service import Service
from rbserve.server.scoring.work import Ranking, Scoring, Work

VERSION_DIGITS = 12
NO_SERVICES: Mapping[str, Service[Any, Any]] = {}


def not_profiled(artifact: Artifact, variant: str) -> Profiled:
    """Has no figures of any model."""
    del artifact, variant
    return NOT_PROFILED


def no_encoder(texts: Sequence[str]) -> Vectors:
    """Raises UsageError: there is no language model to make vectors of texts with."""
    del texts
    raise UsageError("no language model is at hand that makes vectors of texts", "rbserve items add has one")


def refuse_texts(artifact: Artifact) -> Encode:
    """Has no encoder for any artefact."""
    del artifact
    return no_encoder


class ServedVariant(NamedTuple):
    """An artefact's directory, the variant to serve, and where the figures of its profiles come from.

    `encoder` returns the function that makes vectors of new texts, for a model whose items are such vectors.
    """

    path: Path
    variant: str
    measured: Callable[[Artifact, str], Profiled] = not_profiled
    encoder: Callable[[Artifact], Encode] = refuse_texts


class Opening(NamedTuple):
    """How models are opened: which, with how many threads a call, and how many bytes of user cache each."""

    chosen: Sequence[ServedVariant]
    threads: int = 1
    user_cache: int = 0
    limits: Limits = Limits()

    def open(
        self, telemetry: Telemetry, served: Mapping[str, Service[Any, Any]] = NO_SERVICES
    ) -> list[Service[Any, Any]]:
        """A warm and checked service of every model; those of `served`, by name, are kept for an unchanged artefact.

        Raises ArtifactError or UsageError for a model that cannot answer, or answers otherwise than when exported.
        """
        artifacts = [open_artifact(choice.path) for choice in self.chosen]
        names = [artifact.name for artifact in artifacts]
        if repeated := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise UsageError(
                f"two models have the name {repeated[0]}", "requests name them: serve one of them elsewhere"
            )
        return [
            self._open(artifact, choice, telemetry, served.get(artifact.name))
            for artifact, choice in zip(artifacts, self.chosen, strict=True)
        ]

    def _open(
        self,
        artifact: Artifact,
        choice: ServedVariant,
        telemetry: Telemetry,
        served: Service[Any, Any] | None,
    ) -> Service[Any, Any]:
        if served is not None and served.manifest == sha256(artifact.path / "manifest.json"):
            service = served
            for name in artifact.variant_files(choice.variant):
                artifact.file(name)  # raises where it is not what the manifest says
        else:
            encode = choice.encoder(artifact)
            service = open_service(artifact, choice.variant, self.threads, self.user_cache, telemetry, encode)
            service.warm_up(self.limits, artifact.checks(choice.variant))
        service.profiled = choice.measured(artifact, choice.variant)
        return service


def _open_content(artifact: Artifact, encode: Encode) -> ItemContent:
    content = open_content(artifact, encode)
    assert content is not None
    return content


def open_service(
    artifact: Artifact,
    variant: str,
    threads: int,
    user_cache: int = 0,
    telemetry: Telemetry | None = None,
    encode: Encode = no_encoder,
) -> Service[Any, Any]:
    """A service of a variant, not warm yet; `encode` makes vectors of new texts for group C."""
    work: Work[Any, Any]
    if artifact.manifest.adopted:
        scorer = open_scorer(artifact, variant, threads)
        work = adopted_work(artifact, artifact.manifest.adopted, scorer)
    elif TASKS[artifact.manifest.task].ranks:
        longest = artifact.manifest.config.get("max_history")
        work = Ranking(open_ranker(artifact, variant, threads), artifact.items, longest)
    else:
        scorer = open_scorer(artifact, variant, threads, user_cache)
        content = partial(_open_content, artifact, encode) if content_kind(artifact) else None
        texts = text_scorer(scorer, partial(artifact_tokenizer, artifact), content)
        work = Scoring(scorer, artifact.items, texts=texts, fields=open_request_fields(artifact))
    return Service(
        work, artifact.name, variant, artifact.manifest.dataset, telemetry or Telemetry(),
        version=artifact.model_digest[:VERSION_DIGITS], manifest=sha256(artifact.path / "manifest.json"),
    )  # fmt: skip


def adopted_work(artifact: Artifact, adopted: Adopted, scorer: Scorer) -> AdoptedScoring:
    """What a model that was made elsewhere does for a request; it is warmed up with one of its stored checks."""
    stored = filter(None, map(artifact.checks, artifact.manifest.variants))
    sample = next((check.request for checks in stored for check in checks.checks), None)
    task = TASKS[artifact.manifest.task]
    return AdoptedScoring(scorer, adopted.signature, adopted.features, task, adopted.requests, sample)


def _in_one_line(error: Exception) -> str:
    """An error's first line, and its hint where it has one."""
    hint = error.hint if isinstance(error, RbserveError) else None
    return "; ".join(filter(None, (first_line(error), hint)))


class Reloader:
    """Loads new versions of `models`: `prepare`, then `commit` or `abandon`."""

    def __init__(self, models: Models, opening: Opening) -> None:
        self._models, self._opening = models, opening
        self._next: list[Service[Any, Any]] = []
        self.changed: list[str] = []
        """The names of models of which `prepare` found a new version."""

    def prepare(self) -> str | None:
        """Opens the new versions beside the old ones, on any thread; returns why they may not be served, if so."""
        try:
            fresh = self._opening.open(
                self._models.telemetry, {service.model: service for service in self._models}
            )
            for old, new in zip(self._models, fresh, strict=True):
                if (old.model, old.work.task, type(old.work)) != (new.model, new.work.task, type(new.work)):
                    raise ArtifactError(
                        f"where {old.model} was there is {new.model} now, another model",
                        "start a server of it",
                    )
        except Exception as error:  # noqa: BLE001  (whatever is wrong with a new version, the old ones are served on)
            self.abandon()
            return _in_one_line(error)
        self.changed = [new.model for old, new in zip(self._models, fresh, strict=True) if new is not old]
        self._next = fresh
        return None

    def commit(self) -> None:
        """Replaces the old versions by the new ones; to be called on the event loop's thread."""
        self._models.replace(self._next)
        self._next = []
        self._models.telemetry.reloads.labels("taken" if self.changed else "unchanged").inc()

    def abandon(self) -> None:
        """Drops the new versions."""
        self._next = []
        self._models.telemetry.reloads.labels("refused").inc()
