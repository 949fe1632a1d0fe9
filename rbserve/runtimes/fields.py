"""The scorer of a model that reads fields, in any runtime: it makes the tensors of each request, then scores."""

from __future__ import annotations

from rbserve.core.fields import Layout
from rbserve.core.requests import Request
from rbserve.core.types import Scorer, Scores
from rbserve.data.artifact import Artifact
from rbserve.features.maker import FeatureMaker
from rbserve.features.opening import open_maker


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


def with_fields(artifact: Artifact, scorer: Scorer) -> Scorer:
    """The scorer as it is, or, of an artefact that reads fields, one that makes them first."""
    return FieldScorer(scorer, open_maker(artifact)) if artifact.layout else scorer
