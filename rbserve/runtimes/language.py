"""Scoring and ranking with language models: the user's part of a prompt is read once, candidates are packed behind it.

The paper's protocol encodes the whole prompt again for each candidate. Here calls of about CALL_TOKENS each take the
user's part once, then candidates, which attend to its cache and themselves, at the positions they would have alone:
the scores are the same. What was read of a user can be kept for his next request (`PrefixCache`). The instruction, with
which every prompt begins, is read once by a decoder (`FixedStart`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from threading import Lock
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rbserve.core.requests import CANDIDATES, HISTORY, Request
from rbserve.core.types import Items, Observe, Scores, no_observer
from rbserve.models.part_packing import PackedParts, pack_parts
from rbserve.models.prompts import Packed, Prompts, Tokens, pack, pack_questions, pad

CALL_TOKENS = 192
"""Tokens of a call: attention between candidates, which a mask takes back, costs their square; a call costs a copy
of the cache."""


ROWS_TOKENS = 2048
"""Tokens of a call whose rows are whole prompts."""

Candidate = int | NDArray[Any]
"""A row of the item table, or the token ids [I] of a text that has none."""


class LanguageCall(Protocol):
    """A language model in one of the runtimes. `takes_parts`: it is called with PackedParts, not with a mask."""

    takes_parts: bool

    def __call__(self, packed: Packed | PackedParts, past: Any | None, cached: bool) -> tuple[Scores, Any]:
        """What it answers at the places to read, and, if `cached`, the cache of the packed tokens.

        Answers are log-odds float32[B, N] of a click, or logits float32[B, N, K] of the codes of a next item.

        `past` is such a cache, of the tokens before; None where there are none.
        """
        ...

    def head_of(self, cache: Any, length: int) -> Any:
        """The cache of the first `length` tokens."""
        ...

    def joined(self, cache: Any, more: Any) -> Any:
        """The cache of tokens, extended by that of those that follow them."""
        ...


class LanguageScorer:
    """Scores candidates by what the language model answers (groups D, E and F)."""

    def __init__(
        self, call: LanguageCall, prompts: Prompts, kept: PrefixCache | None = None,
        start: FixedStart | None = None,
    ) -> None:  # fmt: skip
        """`kept` is what remembers users from request to request; without it every request reads all of its prompt but
        the fixed `start`, which scorers with one model share."""
        self._call, self._prompts, self._kept = call, prompts, kept
        self._start = start or FixedStart(call, prompts)

    @property
    def user_cache(self) -> PrefixCache | None:
        """What remembers users, if anything does."""
        return self._kept

    def remembering(self, limit: int) -> LanguageScorer:
        """A scorer with this one's model that keeps up to `limit` bytes of what it reads of users."""
        return LanguageScorer(self._call, self._prompts, PrefixCache(limit), self._start)

    def score(self, request: Request) -> Scores:
        """Click probabilities float32[N]."""
        return self.score_staged(request, no_observer)

    def score_staged(self, request: Request, observe: Observe) -> Scores:
        """Scores as `score` does; `observe` hears the name of each stage as it ends."""
        return self._score(request[HISTORY], request[CANDIDATES].tolist(), observe)

    def score_tokens(
        self,
        history: Items | Sequence[NDArray[Any]],
        candidates: Sequence[Candidate],
        observe: Observe = no_observer,
    ) -> Scores:
        """Click probabilities float32[N] of candidates: rows of the item table, or token ids [I] of other texts
        (`ItemTokenizer`). A history is rows int32[T], or such token ids.
        """
        return self._score(history, candidates, observe)

    def tokens(self, item: int) -> NDArray[Any]:
        """The token ids int32[I] of an item of the table."""
        return self._prompts.items[item]

    def _score(
        self,
        history: Items | Sequence[NDArray[Any]],
        candidates: Sequence[Candidate],
        observe: Observe,
    ) -> Scores:
        prefix_of = self._prompts.prefix if isinstance(history, np.ndarray) else self._prompts.prefix_of
        texts = (len(candidate) for candidate in candidates if not isinstance(candidate, int))
        prefix = prefix_of(history, max(texts, default=0))  # type: ignore[arg-type]
        odds = self._odds(prefix, candidates, observe) if candidates else np.empty(0, np.float32)
        scores: Scores = (1 / (1 + np.exp(-odds))).astype(np.float32)
        observe("probabilities")
        return scores

    def _odds(self, prefix: Tokens, candidates: Sequence[Candidate], observe: Observe) -> Scores:
        """Log-odds float32[N] of one candidate at least."""
        suffixes = [self._prompts.suffix_of_candidate(candidate) for candidate in candidates]
        read = self._behind_one if self._prompts.pieces.shared else self._apart
        return read(prefix, suffixes, observe)

    def _behind_one(self, prefix: Tokens, suffixes: Sequence[Tokens], observe: Observe) -> Scores:
        """The prefix, or what of it is not known yet, with the first suffixes; the others behind its cache."""
        read, past = self._kept.longest(prefix) if self._kept else (0, None)
        if past is not None:
            past = self._call.head_of(past, read)
            observe("user cache")
        if read < self._start.length:
            read, past = self._start.length, self._start.cache()
        if self._call.takes_parts:
            return self._in_parts(prefix, suffixes, read, past, observe)
        return self._in_groups(prefix, prefix, suffixes, read, past, observe)

    def _in_parts(
        self, prefix: Tokens, suffixes: Sequence[Tokens], read: int, past: Any | None, observe: Observe
    ) -> Scores:
        """Log-odds float32[N] of suffixes behind a prefix, whose first `read` tokens are in the cache `past`.

        The rest of the prefix is read with the shortest suffix, then suffixes of like length together.
        """
        from_end, odds = self._prompts.pieces.read_from_end, np.empty(len(suffixes), np.float32)
        order = np.argsort([len(suffix) for suffix in suffixes], kind="stable")
        if read < len(prefix):
            packed = pack_parts([np.concatenate((prefix[read:], suffixes[order[0]]))], read, from_end)
            observe("prompt")
            cached = self._kept is not None or len(suffixes) > 1
            answers, present = self._call(packed, past, cached=cached)
            odds[order[0]], order = answers[0, 0], order[1:]
            if cached:
                past = self._extended(past, present, len(prefix) - read)
                if self._kept:
                    self._kept.keep(prefix, past)
            observe("prefill")
        places = iter(order.tolist())
        for group in _groups([suffixes[place] for place in order], 0, CALL_TOKENS) if len(order) else ():
            packed = pack_parts(group, len(prefix), from_end)
            observe("prompt")
            odds[[next(places) for _ in group]] = self._call(packed, past, cached=False)[0][0]
            observe("candidates")
        return odds

    def _extended(self, past: Any | None, present: Any, new: int) -> Any:
        """A cache, extended by that of the `new` first tokens of a call."""
        fresh = self._call.head_of(present, new)
        return fresh if past is None else self._call.joined(past, fresh)

    def _in_groups(
        self, tokens: Tokens, prefix: NDArray[Any], suffixes: Sequence[NDArray[Any]], read: int,
        past: Any | None, observe: Observe,
    ) -> Scores:  # fmt: skip
        """Log-odds float32[N] of suffixes behind a prefix, whose first `read` rows are in the cache `past`.

        A row of these is what the model reads: a token or, behind some layers, a state. The user cache knows the
        prefix by its `tokens`.
        """
        answers: list[Scores] = []
        groups = [*_groups(suffixes, len(prefix) - read, CALL_TOKENS)]
        for place, group in enumerate(groups):
            packed = self._pack(prefix, group, read)
            observe("prompt")
            new = len(prefix) - read
            cached = new > 0 and (self._kept is not None or place + 1 < len(groups))
            odds, present = self._call(packed, past, cached=cached)
            answers.append(odds[:, : len(group)])
            if cached:
                past = self._extended(past, present, new)
                if self._kept:
                    self._kept.keep(tokens, past)
            observe("prefill" if new else "candidates")
            read = len(prefix)
        together: Scores = np.concatenate(answers, axis=1)[0]
        return together

    def _pack(self, prefix: NDArray[Any], group: Sequence[NDArray[Any]], read: int) -> Any:
        """What the model is called with, for the prefix behind its first `read` rows and a group of suffixes."""
        return pack(prefix, group, self._prompts.pieces, read)

    def _apart(self, prefix: Tokens, suffixes: Sequence[Tokens], observe: Observe) -> Scores:
        """A row for each candidate, whose prefix is read anew: what the prefix becomes depends on it.

        Rows of like length are read together, so that little is filled up.
        """
        odds = np.empty(len(suffixes), np.float32)
        by_length = np.argsort([len(suffix) for suffix in suffixes], kind="stable")
        longest = len(prefix) + max(map(len, suffixes), default=1)
        at_once = max(1, ROWS_TOKENS // longest)
        for begin in range(0, len(suffixes), at_once):
            rows = by_length[begin : begin + at_once]
            padded = pad([pack(prefix, [suffixes[row]], self._prompts.pieces) for row in rows.tolist()])
            observe("prompt")
            odds[rows] = self._call(padded, None, cached=False)[0][:, 0]
            observe("candidates")
        return odds


def _groups(suffixes: Sequence[Tokens], first: int, most: int) -> Iterator[list[Tokens]]:
    """The suffixes in their order, in groups of at most `most` tokens; the first has `first` tokens already.

    The first has no suffix where `first` leaves no room; every other has one at least.
    """
    group: list[Tokens] = []
    total = first
    for suffix in suffixes:
        if total and total + len(suffix) > most:
            yield group
            group, total = [], 0
        group.append(suffix)
        total += len(suffix)
    yield group


class FixedStart:
    """The cache of the tokens with which every prompt of a model begins, made at the first request.

    Only where later tokens change nothing in it: of decoders, which read from left to right.
    """

    def __init__(self, call: LanguageCall, prompts: Prompts) -> None:
        pieces = prompts.pieces
        self._call, self._pieces = call, pieces
        self.length = len(pieces.start) if pieces.causal and pieces.shared else 0
        self._cache: Any | None = None

    def cache(self) -> Any:
        """The cache of the first `length` tokens; two threads may make it at once, with the same outcome."""
        if self._cache is None:
            tokens = np.array(self._pieces.start, np.int64)
            packed = pack_parts([tokens], 0) if self._call.takes_parts else pack(tokens, [], self._pieces)
            _, self._cache = self._call(packed, None, cached=True)
        return self._cache


class PrefixCache:
    """What a model read of its last users' prompts, found again by the very tokens; the least recently used go first.

    A prompt is found by its longest known beginning, to the token: a history that grew by an item has all but its last
    words in common with what it was. For one model; safe for threads, since what is kept is never written again.
    """

    def __init__(self, limit: int, stride: int = 16) -> None:
        """At most `limit` bytes are kept, prompts of at least `stride` tokens."""
        self._limit, self._stride = limit, stride
        self._entries: OrderedDict[bytes, tuple[Tokens, Any]] = OrderedDict()
        self._beginnings: dict[bytes, bytes] = {}
        self._bytes = 0
        self._lock = Lock()
        self.tokens_found = self.tokens_asked = 0

    @property
    def bytes_kept(self) -> int:
        """Bytes of all caches."""
        return self._bytes

    def longest(self, tokens: Tokens) -> tuple[int, Any | None]:
        """How many of tokens int64[P] one of the kept prompts begins with, and that prompt's cache; 0 and None."""
        with self._lock:
            self.tokens_asked += len(tokens)
            for length in range(len(tokens) - len(tokens) % self._stride, 0, -self._stride):
                key = self._beginnings.get(tokens[:length].tobytes())
                if key is None:
                    continue
                self._entries.move_to_end(key)
                known, cache = self._entries[key]
                most = min(len(known), len(tokens))
                differ = np.flatnonzero(known[length:most] != tokens[length:most])
                shared = length + int(differ[0]) if len(differ) else most
                self.tokens_found += shared
                return shared, cache
        return 0, None

    def whole(self, tokens: Tokens) -> Any | None:
        """The cache of a prompt that is exactly tokens int64[P]; None where none is kept."""
        with self._lock:
            self.tokens_asked += len(tokens)
            key = tokens.tobytes()
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            self.tokens_found += len(tokens)
            return self._entries[key][1]

    def keep(self, tokens: Tokens, cache: Any) -> None:
        """Keeps the cache of tokens int64[P]; what is larger than the limit is not kept."""
        key, size = tokens.tobytes(), int(cache.nbytes)
        if size > self._limit or len(tokens) < self._stride:
            return
        with self._lock:
            self._drop(key)
            while self._bytes + size > self._limit:
                self._drop(next(iter(self._entries)))
            self._entries[key] = tokens, cache
            self._bytes += size
            for beginning in self._beginnings_of(tokens):
                self._beginnings[beginning] = key

    def _drop(self, key: bytes) -> None:
        if key not in self._entries:
            return
        tokens, cache = self._entries.pop(key)
        self._bytes -= int(cache.nbytes)
        for beginning in self._beginnings_of(tokens):
            if self._beginnings.get(beginning) == key:
                del self._beginnings[beginning]

    def _beginnings_of(self, tokens: Tokens) -> Iterator[bytes]:
        return (tokens[:length].tobytes() for length in range(self._stride, len(tokens) + 1, self._stride))


class LanguageStepper:
    """Continues sequences for beam search: all beams of a user lie in one row, and a mask says whose past is whose.

    The cache is never copied from beam to beam: a beam attends to the question and to the places of its ancestors.
    """

    def __init__(self, call: LanguageCall, prompts: Prompts) -> None:
        self._call, self._causal = call, prompts.pieces.causal
        self._first_new = prompts.pieces.vocabulary

    def prefill(self, prompts: NDArray[Any]) -> tuple[Scores, BeamPasts]:
        """Logits float32[B, V] after questions int64[B, P], and what the beams know."""
        logits, cache = self._call(pack_questions(prompts, self._causal), None, cached=True)
        nothing = np.zeros((len(prompts), 1, 0), bool)
        return logits[:, 0], BeamPasts(cache, nothing, question=prompts.shape[1], depth=0)

    def step(self, tokens: Items, parents: Items, beams: BeamPasts) -> tuple[Scores, BeamPasts]:
        """Logits float32[B, W, V] after tokens int32[B, W] that continue beams `parents`, and what they know then."""
        rows, width = tokens.shape
        ancestors = beams.ancestors[np.arange(rows)[:, None], parents]
        itself = np.broadcast_to(np.eye(width, dtype=bool), (rows, width, width))
        known = np.concatenate((ancestors, itself), axis=2)
        mask = np.concatenate((np.ones((rows, width, beams.question), bool), known), axis=2)
        positions = np.full((rows, width), beams.question + beams.depth)
        read = np.tile(np.arange(width), (rows, 1))
        packed = Packed(tokens.astype(np.int64) + self._first_new, positions, mask, read)
        logits, more = self._call(packed, beams.cache, cached=True)
        return logits, BeamPasts(self._call.joined(beams.cache, more), known, beams.question, beams.depth + 1)


class BeamPasts(NamedTuple):
    """What W beams of B users have read: the cache of the `question`'s tokens and of their own, `depth` levels.

    `ancestors` bool[B, W, S] says which of the S own places are on a beam's path.
    """

    cache: Any
    ancestors: NDArray[np.bool_]
    question: int
    depth: int


def packed_questions(prompts: Prompts) -> Callable[[Items], Packed]:
    """Makes the input of a language model that ranks: the questions of histories int32[B, T]."""
    return lambda histories: pack_questions(prompts.questions(histories), prompts.pieces.causal)
