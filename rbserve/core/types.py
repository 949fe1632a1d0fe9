"""The vocabulary of the whole project: rows of the zoo, and the interfaces of scorers and rankers.

Array shapes use one legend everywhere: T items of history, N candidates (a *slate*), k results.
Items are int32 rows of the artefact's item table, never raw ids. Nothing here imports NumPy: the command line reads
these names to print its help.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

from rbserve.core.requests import Request
from rbserve.core.tasks import TaskName

Group = Literal["A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "X"]
"""The paper's groups of models; X are those beyond the paper."""
ItemForm = Literal["id", "text", "embedding", "semantic_id", "features"]

Items: TypeAlias = "NDArray[np.int32]"
Scores: TypeAlias = "NDArray[np.float32]"
Vectors: TypeAlias = "NDArray[np.float32]"

Progress = Callable[[int, int, str], None]
"""Called with steps done, steps at most, and a line that says how it goes."""


def no_progress(done: int, total: int, line: str) -> None:
    """A progress that shows nothing."""
    del done, total, line


Observe = Callable[[str], None]
"""Called with the name of each stage of a call as it ends."""


def no_observer(stage: str) -> None:
    """An observer that does nothing."""
    del stage


@dataclass(frozen=True)
class ModelSpec:
    """One row of the zoo: a recommender of the paper's Tables 3, 4 or 5, or one beyond the paper (group X).

    `paper_name` is what the paper calls it, None beyond the paper.
    `config` is the frozen config dataclass its model is built from; `needs` names what else the row takes (a
    backbone, an API), empty for a self-contained row. `training` are the values of `Settings` that differ
    from its defaults. `weights_of` names the row whose trained weights this one decodes in another way. `random`: its
    weights are to be drawn, for its latency alone.
    """

    name: str
    group: Group
    task: TaskName
    item_form: ItemForm
    paper_name: str | None
    recipe: str
    config: Any
    backbone: str | None = None
    needs: tuple[str, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    weights_of: str | None = None
    random: bool = False


@runtime_checkable
class Scorer(Protocol):
    """Pair-wise recommendation: how well does each of N candidates suit a user, or a query?"""

    def score(self, request: Request) -> Scores:
        """A score float32[N] for each candidate of a request, higher is better.

        A zoo row takes `slate_request(history, candidates)` and gives click probabilities; an empty history and an
        empty slate are legal. An adopted model takes the tensors of its signature.
        """
        ...


@runtime_checkable
class Ranker(Protocol):
    """List-wise recommendation: which k items come next?"""

    def top_k(self, history: Items, k: int) -> tuple[Items, Scores]:
        """The k best items int32[k] for history int32[T], oldest first, and their scores float32[k], best first.

        An empty history is legal. Fewer than k come back where there are no more items to be had.
        """
        ...

    def top_k_batch(self, histories: Items, k: int) -> tuple[Items, Scores]:
        """The best items of B users with histories of one length, int32[B, T]: int32[B, k] and float32[B, k].

        Places that no item takes hold -1, with a score of minus infinity, or that of a generated path which names
        no item. `top_k` is its case of one user, without such places.
        """
        ...


@runtime_checkable
class StagedScorer(Scorer, Protocol):
    """A scorer whose calls have stages, and tell where the time goes."""

    def score_staged(self, request: Request, observe: Observe) -> Scores:
        """Scores as `score` does, and calls observe(name) at the end of each stage.

        prompt: tokens laid out; prefill: the history with the candidates that fit behind it; candidates: the others;
        probabilities.
        """
        ...


@runtime_checkable
class StagedRanker(Ranker, Protocol):
    """A ranker whose calls have stages, and tell where the time goes.

    `generates`: it writes its items step by step, and a path may name none.
    """

    generates: bool

    def top_k_staged(self, history: Items, k: int, observe: Observe) -> tuple[Items, Scores]:
        """Ranks as `top_k` does, and calls observe(name) at the end of each stage.

        prompt: tokens laid out; then forward, or, by beam search, prefill, a level's step, filter and top_k, and rank.
        """
        ...
