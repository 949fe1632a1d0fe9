"""How a prepared data set judges models: what divides its rows, and where its negatives come from."""

from __future__ import annotations

import shlex
from collections.abc import Container, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from rbserve.data.dataset import Dataset

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

    @property
    def title(self) -> str:
        """The judging in words: split by time, 2 popular negatives."""
        drawn = {"uniform": "random", "popularity": "popular"}.get(self.negatives_by, self.negatives_by)
        negatives = f"{self.negatives} {drawn} negatives" if self.negatives else "own dislikes"
        return f"split by {self.split}, {negatives}"


def remaking_command(dataset: Dataset) -> str:
    """The command that prepares a data set anew: its source, what it judges by, and its name where that is its own."""
    manifest = dataset.manifest
    judging = judging_of(manifest.source, manifest.options)
    parts = [f"rbserve prepare {manifest.source}"]
    named = manifest.name != manifest.source + ("" if dataset.is_log else judging.suffix)
    if judging.split != "users" and not dataset.is_log:
        parts.append(f"--split {judging.split}")
    if judging.negatives and (named or judging.negatives_by != "uniform"):
        parts.append(f"--negatives {judging.negatives}")
    if judging.negatives_by != "uniform":
        parts.append(f"--negatives-by {judging.negatives_by}")
    if named:
        parts.append(f"--name {shlex.quote(manifest.name)}")
    return " ".join(parts)


def judging_of_data(dataset: Dataset) -> Judging:
    """The judging of a prepared data set, with the sizes of its source."""
    manifest = dataset.manifest
    judging = judging_of(manifest.source, manifest.options)
    return msgspec.structs.replace(judging, sizes=manifest.counts["source"])


def judging_of(source: str, options: Mapping[str, Any]) -> Judging:
    """The judging in the options of a manifest; those of an earlier version say nothing of it: it is the paper's."""
    values = {name: options[name] for name in ("split", "negatives", "negatives_by") if name in options}
    return Judging(source, **values)
