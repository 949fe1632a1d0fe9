"""Beam search over semantic identifiers, for every model that generates an item code by code.

The search knows nothing of the model but its logits (`Stepper`). It runs for B users at once:

- *constrained*, the paper's conditional beam search (RecBench, section 3.2): a beam may only take a code that
  leads to an item, and the probabilities of a step are over those codes;
- *free*: a beam may take any token, the probabilities are over all of them, and a finished path may name no item.

A path's score is the sum of its log-probabilities. The search sees the prompts and what it chose itself, never
a target.

Shapes: B users, T prompt tokens, W beams, w beams alive at a level, L levels of K codes, V = L * K tokens, and
M continuations of a user's beams. The token of code c at level l (from 0) is l * K + c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rbserve.core.types import Items, Observe, Scores, no_observer
from rbserve.data.trie import Nodes, Trie

Tokens = NDArray[np.int32]
Cache = TypeVar("Cache")


class Stepper(Protocol[Cache]):
    """A model that continues sequences, with finite logits. `Cache`, what it remembers, is its own affair."""

    def prefill(self, prompts: Tokens) -> tuple[NDArray[np.float32], Cache]:
        """Logits float32[B, V] of what follows the prompts int32[B, T], and what to remember of them."""
        ...

    def step(self, tokens: Tokens, parents: Tokens, cache: Cache) -> tuple[NDArray[np.float32], Cache]:
        """Logits float32[B, w, V] of what follows when beam i of a user takes tokens int32[B, w] at i.

        Beam i continues beam parents[b, i] of the user's previous step, or the prompt at the first step, where
        all parents are 0. The prompt's part of the cache is the same for all beams of a user.
        """
        ...


@dataclass(frozen=True, eq=False)
class Beams:
    """What a search found, best first: W places a user, of equal scores the lower path first."""

    items: Items
    """int32[B, W]; -1 for a path that names no item, and where there are no more paths."""
    scores: Scores
    """float32[B, W]: log-probability of each path, minus infinity where there is none."""
    paths: Tokens
    """int32[B, W, L]: the tokens of each path, -1 where there is none."""

    @property
    def illegal(self) -> NDArray[np.float64]:
        """float64[B]: the share of a user's paths that name no item; 0 for a constrained search."""
        is_beam = self.scores > -np.inf
        share: NDArray[np.float64] = (is_beam & (self.items < 0)).sum(axis=1) / is_beam.sum(axis=1)
        return share


def search(
    stepper: Stepper[Any],
    prompts: Tokens,
    trie: Trie,
    codes_per_level: int,
    width: int,
    *,
    constrained: bool,
    observe: Observe = no_observer,
) -> Beams:
    """The `width` best paths of each user by beam search, from prompts int32[B, T] of one length.

    `observe` is called with the name of each stage as it ends: "prefill", "step", "filter", "top_k".
    A constrained search asks the model no more once every beam has a single item to go to: the remaining codes
    have probability 1.
    """
    _check(trie, codes_per_level, width)
    beams = _roots(len(prompts))
    logits, cache = stepper.prefill(prompts)
    logits = logits[:, None]
    observe("prefill")
    for level in range(trie.levels):
        if level:
            if constrained and _settled(beams.nodes, trie):
                break
            logits, cache = stepper.step(beams.paths[:, :, -1], beams.parents, cache)
            observe("step")
        first_token = level * codes_per_level
        following = _legal(logits, beams, trie, first_token) if constrained else _all(logits, beams)
        observe("filter")
        beams = _advance(beams, following, trie, first_token, width)
        observe("top_k")
    return _ranked(beams, trie, codes_per_level, width)


@dataclass(frozen=True, eq=False)
class _Alive:
    """The beams of a level in the order of their paths, so that of equal scores the first is the lower path.

    All users have equally many: `width`, or else every path of the level, because no beam has no continuation.
    """

    nodes: Nodes  # int32[B, w], -1 beside the trie
    scores: Scores  # float32[B, w]
    paths: Tokens  # int32[B, w, levels so far]
    parents: Tokens  # int32[B, w], places in the level before


@dataclass(frozen=True, eq=False)
class _Next:
    """How a user's beams may go on, a row [M] per user in the order of the longer paths."""

    choices: NDArray[np.int64]  # int64[B, M]: parent * V + token
    scores: Scores  # float32[B, M]: of the longer path; -inf where a user has fewer than M
    vocabulary: int  # V


def _roots(users: int) -> _Alive:
    zeros = np.zeros((users, 1), np.int32)
    return _Alive(zeros, zeros.astype(np.float32), np.zeros((users, 1, 0), np.int32), zeros)


def _settled(nodes: Nodes, trie: Trie) -> bool:
    """Whether no beam has a choice left."""
    return bool((trie.leaves[nodes] == 1).all())


def _all(logits: NDArray[np.float32], beams: _Alive) -> _Next:
    """Every token of the vocabulary behind every beam, normalised over the vocabulary; M = w * V."""
    scores = logits - logits.max(axis=-1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    scores += beams.scores[:, :, None]
    scores = scores.reshape(len(logits), -1)
    return _Next(np.broadcast_to(np.arange(scores.shape[1]), scores.shape), scores, logits.shape[-1])


def _legal(logits: NDArray[np.float32], beams: _Alive, trie: Trie, first_token: int) -> _Next:
    """The codes that the trie has below each beam, normalised over them.

    Beams have from one to K children. They are laid end to end, [n], so that no time goes into illegal codes.
    """
    users, width, vocabulary = logits.shape
    first = trie.first_child[beams.nodes].ravel()
    children = trie.first_child[beams.nodes + 1].ravel() - first
    start = np.cumsum(children) - children
    beam = np.repeat(np.arange(users * width), children)
    child = np.arange(len(beam)) + (first - start)[beam]
    choice = beam * vocabulary + first_token + trie.code[child]
    scores = logits.ravel()[choice]
    scores -= np.maximum.reduceat(scores, start)[beam]
    scores -= np.log(np.add.reduceat(np.exp(scores), start))[beam]
    scores += beams.scores.ravel()[beam]
    counts = children.reshape(users, width).sum(axis=1)
    choices = _rows(choice % (width * vocabulary), counts, 0)
    return _Next(choices, _rows(scores, counts, -np.inf), vocabulary)


def _rows(values: NDArray[Any], counts: NDArray[np.integer], fill: float) -> NDArray[Any]:
    """Values [n] as rows [B, M] of the first counts[0], the next counts[1], …, with `fill` behind them."""
    rows = np.full((len(counts), counts.max()), fill, values.dtype)
    rows[np.arange(rows.shape[1]) < counts[:, None]] = values
    return rows


def _advance(beams: _Alive, following: _Next, trie: Trie, first_token: int, width: int) -> _Alive:
    """The best `width` continuations of each user's beams, or as many as there are."""
    user = np.arange(len(following.scores))[:, None]
    places = _best(following.scores, width)
    parents, tokens = np.divmod(following.choices[user, places].astype(np.int32), following.vocabulary)
    return _Alive(
        nodes=trie.child(beams.nodes[user, parents], tokens - first_token),
        scores=following.scores[user, places],
        paths=np.concatenate([beams.paths[user, parents], tokens[:, :, None]], axis=2),
        parents=parents,
    )


def _best(scores: Scores, width: int) -> NDArray[np.int64]:
    """Places [B, w] of each row's best scores [B, n], ascending; of equal scores the first.

    w is `width`, or n where that is less. A -inf is never among them: rows of fewer than `width` continuations
    are equally long, because then the beams are all the paths there are.
    """
    users, n = scores.shape
    keep = min(width, n)
    cut = np.partition(scores, n - keep, axis=1)[:, n - keep, None]
    chosen = scores >= cut
    if np.count_nonzero(chosen) > users * keep:
        tied = scores == cut
        spare = keep - np.count_nonzero(scores > cut, axis=1, keepdims=True)
        chosen &= ~tied | (tied.cumsum(axis=1) <= spare)
    places: NDArray[np.int64] = np.flatnonzero(chosen).reshape(users, keep) % n
    return places


def _ranked(beams: _Alive, trie: Trie, codes_per_level: int, width: int) -> Beams:
    """The beams best first, those that settled early led to their leaves, in arrays of `width` places."""
    nodes, paths = beams.nodes, beams.paths
    for level in range(paths.shape[2], trie.levels):
        nodes = trie.first_child[nodes]
        paths = np.concatenate([paths, level * codes_per_level + trie.code[nodes][:, :, None]], axis=2)
    order = np.argsort(-beams.scores, axis=1, kind="stable")
    user, alive = np.arange(len(nodes))[:, None], nodes.shape[1]
    places = (len(nodes), width)
    best = Beams(
        items=np.full(places, -1, np.int32),
        scores=np.full(places, -np.inf, np.float32),
        paths=np.full((*places, trie.levels), -1, np.int32),
    )
    best.items[:, :alive] = np.where(nodes >= 0, trie.item[nodes], -1)[user, order]
    best.scores[:, :alive] = beams.scores[user, order]
    best.paths[:, :alive] = paths[user, order]
    return best


def _check(trie: Trie, codes_per_level: int, width: int) -> None:
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    if trie.top_code >= codes_per_level:
        raise ValueError(f"the trie has code {trie.top_code}, with {codes_per_level} codes a level")
