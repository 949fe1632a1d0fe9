"""The scorer of a model that reads fields, in any runtime: it makes the tensors of each request, then scores."""

from __future__ import annotations

from rbserve.core.fields import Layout
from rbserve.core.requests import Request
from rbserve.core.types import Observe, Scorer, Scores
from rbserve.data.artifact import Artifact
from rbserve.features.maker import FeatureMaker
from rbserve.features.opening import open_maker
from rbserve.runtimes.histories import RememberingScorer
from rbserve.runtimes.language import PrefixCache


class FieldScorer:
    """Scores requests of history, candidates and raw entries with a scorer that takes the tensors of a layout too."""

    def __init__(self, scorer: Scorer, maker: FeatureMaker) -> None:
        self.scorer, self.maker = scorer, maker

    @property
    def layout(self) -> Layout:
        """The fields that are read."""
        return self.maker.layout

    def score(self, request: Request) -> Scores:
        """Click probabilities float32[N]."""
        return self.scorer.score({**request, **self.maker.tensors(request)})


class RememberingFieldScorer(FieldScorer):
    """A FieldScorer over a scorer that can remember what it reads of users."""

    scorer: RememberingScorer

    @property
    def user_cache(self) -> PrefixCache | None:
        """What remembers users, if anything does."""
        return self.scorer.user_cache

    def remembering(self, limit: int) -> RememberingFieldScorer:
        """A scorer with this one's model that keeps up to `limit` bytes of what it reads of users."""
        return RememberingFieldScorer(self.scorer.remembering(limit), self.maker)

    def score_staged(self, request: Request, observe: Observe) -> Scores:
        """Scores as `score` does; `observe` hears the name of each stage as it ends."""
        tensors = self.maker.tensors(request)
        observe("fields")
        return self.scorer.score_staged({**request, **tensors}, observe)


def with_fields(artifact: Artifact, scorer: Scorer) -> Scorer:
    """The scorer as it is, or, of an artefact that reads fields, one that makes them first."""
    if not artifact.layout:
        return scorer
    made = RememberingFieldScorer if isinstance(scorer, RememberingScorer) else FieldScorer
    return made(scorer, open_maker(artifact))
