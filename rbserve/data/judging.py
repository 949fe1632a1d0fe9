"""How a prepared data set judges models: what divides its rows, and where its negatives come from."""

from __future__ import annotations

import shlex
from collections.abc import Container, Mapping
from typing import Any

import msgspec

NAMES = {"time": "-time", "popularity": "-popular"}
"""What the name of a data set ends with where it does not judge as the paper does, by the value of the option."""


_OPTIONS = {
    "-time-popular": "--split time --negatives 2 --negatives-by popularity",
    "-time": "--split time",
    "-popular": "--negatives 2 --negatives-by popularity",
}


def prepare_command(name: str, sources: Container[str] | None = None) -> str | None:
    """The command that makes the data set of this name, where the name is that of a source and a judging; else None.

    Without `sources`, any name before the judging is taken for one.
    """
    for suffix, options in _OPTIONS.items():
        if (source := name.removesuffix(suffix)) != name and (sources is None or source in sources):
            return f"rbserve prepare {source} {options}"
    return None


class Judging(msgspec.Struct, frozen=True):
    """The way a data set of `source` judges models.

    `split` is what divides the rows (users or time), `negatives` the number of random negatives of a user (0: the
    users' own dislikes), `negatives_by` how these are drawn (uniform or popularity). `sizes` are those of the clean
    source: data sets of one source and equal sizes are made of the same events.
    """

    source: str
    split: str = "users"
    negatives: int = 0
    negatives_by: str = "uniform"
    sizes: dict[str, int] = {}

    @property
    def suffix(self) -> str:
        """What the data set's name ends with: "" as in the paper, "-time", "-popular" or "-time-popular"."""
        return "".join(NAMES.get(value, "") for value in (self.split, self.negatives_by))

    def remaking_command(self, name: str) -> str:
        """The command that prepares a data set of this judging and this name anew."""
        parts, named = [f"rbserve prepare {self.source}"], name != f"{self.source}{self.suffix}"
        if self.split != "users":
            parts.append(f"--split {self.split}")
        if self.negatives and (named or self.negatives_by != "uniform"):
            parts.append(f"--negatives {self.negatives}")
        if self.negatives_by != "uniform":
            parts.append(f"--negatives-by {self.negatives_by}")
        if named:
            parts.append(f"--name {shlex.quote(name)}")
        return " ".join(parts)

    @property
    def title(self) -> str:
        """The judging in words: split by time, 2 popular negatives."""
        drawn = {"uniform": "random", "popularity": "popular"}.get(self.negatives_by, self.negatives_by)
        negatives = f"{self.negatives} {drawn} negatives" if self.negatives else "own dislikes"
        return f"split by {self.split}, {negatives}"


def judging_of(source: str, options: Mapping[str, Any]) -> Judging:
    """The judging in the options of a manifest; those of an earlier version say nothing of it: it is the paper's."""
    values = {name: options[name] for name in ("split", "negatives", "negatives_by") if name in options}
    return Judging(source, **values)
