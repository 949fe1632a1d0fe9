"""New versions of the models, beside the old ones until all of them have proven themselves.

Each is opened from its artefact's directory, warmed, and asked what it answered when it was exported. Only then do
they take the old ones' places, in one step; where one fails, nothing has changed. For that long both are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rbserve.core.errors import ArtifactError, RbserveError, UsageError
from rbserve.core.files import sha256
from rbserve.core.tasks import TASKS
from rbserve.core.types import Vectors
from rbserve.data.artifact import Artifact, open_artifact
from rbserve.runtimes.item_vectors import Encode, ItemContent, content_kind, open_content
from rbserve.runtimes.opening import artifact_tokenizer, open_ranker, open_scorer
from rbserve.runtimes.texts import text_scorer
from rbserve.server.models import Models
from rbserve.server.schema import NOT_PROFILED, Limits, Profiled
from rbserve.server.service import Ranking, Scoring, Service
from rbserve.server.telemetry import Telemetry

VERSION_DIGITS = 12
NOTHING_SERVED: Mapping[str, Service[Any, Any]] = {}


def nothing_measured(artifact: Artifact, variant: str) -> Profiled:
    """Says nothing of any model."""
    del artifact, variant
    return NOT_PROFILED


def no_encoder(texts: Sequence[str]) -> Vectors:
    """Makes no vectors of texts."""
    del texts
    raise UsageError("no language model is at hand that makes vectors of texts", "rbserve items add has one")


def without_encoder(artifact: Artifact) -> Encode:
    """Has no language model for any artefact."""
    del artifact
    return no_encoder


class Chosen(NamedTuple):
    """An artefact's directory, which of its variants is served, and who knows what was measured of it.

    `encoder` gives what makes vectors of new texts, for a model whose items are such vectors.
    """

    path: Path
    variant: str
    measured: Callable[[Artifact, str], Profiled] = nothing_measured
    encoder: Callable[[Artifact], Encode] = without_encoder


class Opening(NamedTuple):
    """What opening models takes: which, how many threads a call, and how many bytes for the last users of each."""

    chosen: Sequence[Chosen]
    threads: int = 1
    user_cache: int = 0
    limits: Limits = Limits()

    def open(
        self, telemetry: Telemetry, served: Mapping[str, Service[Any, Any]] = NOTHING_SERVED
    ) -> list[Service[Any, Any]]:
        """Every model, warm and checked; of those `served` already, by name, the one whose artefact is as it was.

        Raises ArtifactError or UsageError for one that cannot answer as it should.
        """
        artifacts = [open_artifact(one.path) for one in self.chosen]
        names = [artifact.name for artifact in artifacts]
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise UsageError(
                f"two models have the name {twice[0]}", "requests name them: serve one of them elsewhere"
            )
        return [
            self._open(artifact, one, telemetry, served.get(artifact.name))
            for artifact, one in zip(artifacts, self.chosen, strict=True)
        ]

    def _open(
        self, artifact: Artifact, one: Chosen, telemetry: Telemetry, served: Service[Any, Any] | None
    ) -> Service[Any, Any]:
        if served is not None and served.manifest == sha256(artifact.path / "manifest.json"):
            service = served
            for name in artifact.variant_files(one.variant):
                artifact.file(name)  # as its manifest has it
        else:
            encode = one.encoder(artifact)
            service = open_service(artifact, one.variant, self.threads, self.user_cache, telemetry, encode)
            service.warm_up(self.limits, artifact.checks(one.variant))
        service.profiled = one.measured(artifact, one.variant)
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
    """Loads a variant and the item table it belongs to; `encode` is what group C makes vectors of new texts with."""
    work: Scoring | Ranking
    if TASKS[artifact.manifest.task].ranks:
        longest = artifact.manifest.config.get("max_history")
        work = Ranking(open_ranker(artifact, variant, threads), longest)
    else:
        scorer = open_scorer(artifact, variant, threads, user_cache)
        content = partial(_open_content, artifact, encode) if content_kind(artifact) else None
        texts = text_scorer(scorer, partial(artifact_tokenizer, artifact), content)
        work = Scoring(scorer, artifact.items, texts=texts)
    return Service(
        work, artifact.items, artifact.name, variant, artifact.manifest.dataset, telemetry or Telemetry(),
        version=artifact.model_digest[:VERSION_DIGITS], manifest=sha256(artifact.path / "manifest.json"),
    )  # fmt: skip


def _why(error: Exception) -> str:
    """An error in one line, with what to do where that is known."""
    said = (str(error) or repr(error)).splitlines()[0]
    hint = error.hint if isinstance(error, RbserveError) else None
    return "; ".join(filter(None, (said, hint)))


class Reloader:
    """Takes up new versions of what `models` answer with: `prepare`, then `commit` or `abandon`."""

    def __init__(self, models: Models, opening: Opening) -> None:
        self._models, self._opening = models, opening
        self._next: list[Service[Any, Any]] = []
        self.changed: list[str] = []
        """The models of which `prepare` found a new version."""

    def prepare(self) -> str | None:
        """Opens the new versions beside the old ones, on any thread; why they may not take their places, if so."""
        try:
            fresh = self._opening.open(self._models.telemetry, {one.model: one for one in self._models})
            for old, new in zip(self._models, fresh, strict=True):
                if (old.model, old.work.task) != (new.model, new.work.task):
                    raise ArtifactError(
                        f"where {old.model} was there is {new.model} now, another model",
                        "start a server of it",
                    )
        except Exception as error:  # noqa: BLE001  (whatever is wrong with the new version, the old one goes on)
            self.abandon()
            return _why(error)
        self.changed = [new.model for old, new in zip(self._models, fresh, strict=True) if new is not old]
        self._next = fresh
        return None

    def commit(self) -> None:
        """The new versions take the old ones' places; on the event loop's thread."""
        self._models.replace(self._next)
        self._next = []
        self._models.telemetry.reloads.labels("taken" if self.changed else "unchanged").inc()

    def abandon(self) -> None:
        """The new versions are let go."""
        self._next = []
        self._models.telemetry.reloads.labels("refused").inc()
