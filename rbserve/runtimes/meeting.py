"""Scoring with an encoder whose candidates meet the history late: their states up to that layer are looked up.

In the first `meet` layers a candidate attends only to itself (`models/lm.py`), so its states behind them are the same
in every request. They stand in a table of the artefact, which is read through a memory map; the states of a text that
is no item of the table are computed in the request. Then the history's states, and those of the candidates behind them,
go through the other layers together. With `pooled` prompts no layer is left, and each part is one state.

A candidate's states are rounded to 16 bits wherever they come from, so that an item scores as its text does. PreTTR
(MacAvaney et al. 2020) stores document states in this way, for search.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rbserve.core.types import Observe, Progress, Scores, Vectors, no_progress
from rbserve.data.columns import ColumnWriter, blocks
from rbserve.models.prompts import Packed, Pieces, Prompts, Tokens, block_mask, pack, pad
from rbserve.runtimes.language import ROWS_TOKENS, Candidate, LanguageScorer, PrefixCache

ITEMS_AT_ONCE = 512
"""Items whose states are in memory at a time while the table is written."""
States = NDArray[np.float16]
Early = Callable[[Packed], Vectors]
"""States float32[B, L, d] behind the layers in which a part of a prompt is alone; a row is one part."""


class PackedStates:
    """A history's states and those of candidates behind it, laid out for one call; see `Packed`.

    states float32[1, L, d]; mask bool[1, L, P + L]; read int64[1, N].
    """

    rows = 1

    def __init__(self, states: Vectors, mask: NDArray[np.bool_], read: Tokens) -> None:
        self.states, self.mask, self.read = states, mask, read

    @property
    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """By the names that the model's graph gives them."""
        return {"states": self.states, "mask": self.mask, "read": self.read}


class MeetingCall(Protocol):
    """The two halves of a model in one of the runtimes; the call itself is the later one. See `LanguageCall`."""

    takes_parts: bool

    def early(self, packed: Packed) -> Vectors:
        """States float32[B, L, d] behind the layers in which a part of a prompt is alone; a row is one part."""
        ...

    def __call__(self, packed: PackedStates, past: Any | None, cached: bool) -> tuple[Scores, Any]:
        """Log-odds float32[B, N] at the places to read and, if `cached`, the cache of the packed states."""
        ...

    def head_of(self, cache: Any, length: int) -> Any:
        """The cache of the first `length` states."""
        ...

    def joined(self, cache: Any, more: Any) -> Any:
        """The cache of states, extended by that of those that follow them."""
        ...


class MeetingScorer(LanguageScorer):
    """Scores candidates whose states are in a table, or are computed where they are texts."""

    def __init__(
        self, call: MeetingCall, prompts: Prompts, table: States | None, cache: PrefixCache | None = None
    ) -> None:
        """`table` float16[rows, d] has the states of all items; without it each request computes its candidates'."""
        super().__init__(call, prompts, cache)  # type: ignore[arg-type]  # it is called with states
        self._halves, self._table = call, table

    def remembering(self, limit: int) -> LanguageScorer:
        """A scorer with this one's model that keeps up to `limit` bytes of what it reads of users."""
        return MeetingScorer(self._halves, self._prompts, self._table, PrefixCache(limit))

    def _odds(self, prefix: Tokens, candidates: Sequence[Candidate], observe: Observe) -> Scores:
        """Log-odds float32[N]. A user's history is taken from the cache where it is the same to the last token: all
        of an encoder's states change with a history that grows."""
        pieces = self._prompts.pieces
        past = self._kept.whole(prefix) if self._kept else None
        if past is None:
            (own,), read = part_states(self._halves.early, [prefix], pieces), 0
            observe("prefill")
        else:
            read = 1 if pieces.pooled else len(prefix)
            own = np.empty((read, 0), np.float32)  # only its length is asked for
            observe("user cache")
        suffixes = self._suffix_states(candidates)
        observe("item states")
        return self._in_groups(prefix, own, suffixes, read, past, observe)

    def _pack(self, prefix: NDArray[Any], group: Sequence[NDArray[Any]], read: int) -> Any:
        lengths = np.array([len(prefix) - read, *map(len, group)])
        mask, places = block_mask(lengths, read, self._prompts.pieces)
        parts = group if read else [prefix, *group]
        return PackedStates(np.concatenate(parts, dtype=np.float32)[None], mask, places)

    def _suffix_states(self, candidates: Sequence[Candidate]) -> list[States]:
        """The states float16[T, d] of each candidate: of items those of the table, of texts computed here."""
        prompts, table = self._prompts, self._table
        states: dict[int, States] = {}
        if table is not None:
            states = {
                place: table[prompts.state_rows(candidate)]
                for place, candidate in enumerate(candidates)
                if isinstance(candidate, int)
            }
        new = [place for place in range(len(candidates)) if place not in states]
        suffixes = [prompts.suffix_of_candidate(candidates[place]) for place in new]
        computed = part_states(self._halves.early, suffixes, prompts.pieces)
        states.update((place, own.astype(np.float16)) for place, own in zip(new, computed, strict=True))
        return [states[place] for place in range(len(candidates))]


def part_states(early: Early, parts: Sequence[Tokens], pieces: Pieces) -> list[Vectors]:
    """The states float32[T, d] of parts of prompts, token ids int64[T] each; where they are `pooled` float32[1, d].

    Parts of like length are read together.
    """
    by_length = np.argsort([len(part) for part in parts], kind="stable").tolist()
    at_once = max(1, ROWS_TOKENS // max(map(len, parts), default=1))
    states: dict[int, Vectors] = {}
    for begin in range(0, len(parts), at_once):
        places = by_length[begin : begin + at_once]
        read = early(pad([pack(parts[place], [], pieces) for place in places]))
        for place, row in zip(places, read, strict=True):
            own = row[: len(parts[place])]
            states[place] = own.mean(0, keepdims=True) if pieces.pooled else own
    return [states[place] for place in range(len(parts))]


def write_item_states(
    early: Early, prompts: Prompts, path: Path, known: States | None = None, items: int = 0,
    progress: Progress = no_progress,
) -> None:  # fmt: skip
    """Writes the states of all items to the file `path`, a column in which an item has `Prompts.state_rows`.

    The states of the first `items` items are `known`, float16[rows, d]. Memory holds those of ITEMS_AT_ONCE items.
    """
    table, total = ColumnWriter(path, np.float16), len(prompts.items)
    for block in [] if known is None else blocks(known.ravel()):
        table.append(block)
    for begin in range(items, total, ITEMS_AT_ONCE):
        end = min(begin + ITEMS_AT_ONCE, total)
        suffixes = [prompts.suffix(item) for item in range(begin, end)]
        for states in part_states(early, suffixes, prompts.pieces):
            table.append(states)
        progress(end, total, "states of items")
    table.close()


def describe_table(prompts: Prompts, width: int) -> str:
    """What the table of item states takes, in one line: the whole and an item, by their mean."""
    items = len(prompts.items)
    size = prompts.state_count(items) * width * np.dtype(np.float16).itemsize
    return (
        f"the states of {items:,} items take {size / 2**20:,.1f} MiB on disk, {size / max(items, 1) / 1024:.2f} KiB "
        "an item; they are read through a memory map"
    )


def draw_item_states(prompts: Prompts, width: int, path: Path, seed: int) -> None:
    """Writes random states of this width for all items, in the form of `write_item_states`."""
    table, rng = ColumnWriter(path, np.float16), np.random.default_rng(seed)
    rows = prompts.state_count(len(prompts.items))
    for begin in range(0, rows, ROWS_TOKENS):
        drawn = rng.standard_normal((min(ROWS_TOKENS, rows - begin), width), np.float32)
        table.append(drawn.astype(np.float16))
    table.close()
