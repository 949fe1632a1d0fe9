"""Which dimension of a graph's tensors counts the candidates: said with `--slate-dim`, or guessed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rbserve.core.errors import UsageError
from rbserve.core.requests import SLATE, Dimension, TensorSpec

CANDIDATE_NAMES = frozenset(
    ("candidates", "num_candidates", "n_candidates", "slate", "slate_size", "items", "num_items", "n_items")
)
"""Symbols, in lower case, that can only count candidates."""
BATCH_NAMES = frozenset(
    ("n", "b", "bs", "batch", "batch_size", "batchsize", "num_rows", "rows", "samples", "dim0")
)
"""Symbols, in lower case, that count the rows of a call: the candidates, unless another symbol counts those."""
UNNAMED = "dim"
"""A dimension without a name or a size is called by its place: dim0 is the first one."""


class Slate(NamedTuple):
    """The dimension that counts candidates: a symbol of the graph, or the number that it takes in a call.

    The symbols `ones` are 1 in every call: a request is a call.
    """

    dimension: Dimension
    ones: frozenset[str] = frozenset()

    @property
    def fixed(self) -> int | None:
        """How many candidates the graph takes in a call; None for any number."""
        return self.dimension if isinstance(self.dimension, int) else None

    def mark(self, spec: TensorSpec) -> TensorSpec:
        """The tensor with SLATE in place of the dimension that counts candidates, where it has one."""
        place = spec.dims.index(self.dimension) if self.dimension in spec.dims else None
        dims = [SLATE if axis == place else self._other(size) for axis, size in enumerate(spec.dims)]
        return TensorSpec(spec.name, spec.dtype, dims, spec.columns)

    def _other(self, size: Dimension) -> Dimension:
        if size in self.ones:
            return 1
        return f"{SLATE}_other" if size == SLATE else size


def find_slate(
    inputs: Sequence[TensorSpec], score: TensorSpec, wanted: str | None, guessed: list[str]
) -> Slate:
    """The dimension that counts candidates; a line of `guessed` where nobody said it.

    Raises UsageError where `wanted` is no symbol of the inputs, and where two symbols are as likely.
    """
    symbols = list(dict.fromkeys(size for spec in inputs for size in spec.dims if isinstance(size, str)))
    if wanted is not None:
        if wanted not in symbols:
            raise UsageError(
                f"--slate-dim {wanted} is no symbol of the inputs: {_listed(inputs)}",
                f"its symbols: {', '.join(symbols)}"
                if symbols
                else "all its dimensions are fixed: leave the option out",
            )
        return _any_number(wanted, symbols, guessed)
    possible = [symbol for symbol in symbols if symbol in score.dims]
    if not possible and not _is_fixed(score):
        possible = symbols
    if not possible:
        return _fixed_number(inputs, score, guessed)
    symbol, reason = _likeliest(possible, inputs)
    guessed.append(f"The dimension {symbol} counts the candidates: {reason}.")
    return _any_number(symbol, symbols, guessed)


def _any_number(symbol: str, symbols: Sequence[str], guessed: list[str]) -> Slate:
    ones = frozenset(other for other in symbols if other != symbol and other.lower() in BATCH_NAMES)
    guessed.extend(f"The dimension {other} is 1: a call has one request." for other in sorted(ones))
    return Slate(symbol, ones)


def _likeliest(possible: Sequence[str], inputs: Sequence[TensorSpec]) -> tuple[str, str]:
    """The symbol that counts the candidates, and why."""
    if len(possible) == 1:
        return possible[0], "no other free dimension of the inputs comes back in the scores"
    for names in (CANDIDATE_NAMES, BATCH_NAMES):
        match [symbol for symbol in possible if symbol.lower() in names]:
            case [symbol]:
                return symbol, "its name says so"
    raise UsageError(
        f"which dimension counts the candidates is not clear: {' or '.join(possible)} of {_listed(inputs)}",
        " or ".join(f"--slate-dim {symbol}" for symbol in possible),
    )


def _is_fixed(score: TensorSpec) -> bool:
    return bool(score.dims) and all(isinstance(size, int) for size in score.dims)


def _fixed_number(inputs: Sequence[TensorSpec], score: TensorSpec, guessed: list[str]) -> Slate:
    """The number of candidates of a graph whose scores have a fixed shape, else the first dimension of its inputs."""
    size = _scores_of(score) if _is_fixed(score) else _first_size(inputs)
    if size is None or not any(size in spec.dims for spec in inputs):
        raise UsageError(
            f"no dimension of the inputs counts the candidates: {_listed(inputs)} -> {score}",
            "an input must have a row for each candidate, free or of a fixed number",
        )
    guessed.append(f"The graph takes {size} candidate{'s' * (size != 1)} a call: its shapes are fixed.")
    return Slate(size)


def _scores_of(score: TensorSpec) -> int:
    """How many candidates a fixed shape has scores of: a last dimension of 1 or 2 is that of the score's columns."""
    sizes = [size for size in score.dims if isinstance(size, int)]
    if len(sizes) > 1 and sizes[-1] in (1, 2):
        sizes.pop()
    total = 1
    for size in sizes:
        total *= size
    return total


def _first_size(inputs: Sequence[TensorSpec]) -> int | None:
    sizes = {spec.dims[0] for spec in inputs if spec.dims}
    match [*sizes]:
        case [int(size)]:
            return size
    return None


def _listed(inputs: Sequence[TensorSpec]) -> str:
    return ", ".join(map(str, inputs))
