"""What a user says of a model that is adopted, beyond its file and its requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from rbserve.core.errors import UsageError
from rbserve.core.options import Name, Options


@dataclass(frozen=True)
class AdoptOptions(Options):
    """How the columns of a request table belong to the inputs of a model, and what of them is guessed otherwise."""

    label: Annotated[
        Name | None, Meta(description="Column of the labels; without one only latency is measured.")
    ] = None
    group: Annotated[
        Name | None,
        Meta(
            description="Column that tells the requests of a table with a row a candidate: rows with one value."
        ),
    ] = None
    user: Annotated[Name | None, Meta(description="Column of the users, for GAUC and intervals.")] = None
    map: Annotated[
        tuple[str, ...],
        Meta(
            description="Columns that fill an input, in the order of its last dimension; comma-separated columns.",
            examples=["features=likes,shows"],
        ),
    ] = ()
    slate_dim: Annotated[
        Name | None, Meta(description="Symbol of the graph's dimension that counts the candidates.")
    ] = None
    score: Annotated[Name | None, Meta(description="Output that has the scores.")] = None

    @property
    def columns_of(self) -> dict[str, list[str]]:
        """The columns of each input of `map`.

        UsageError for a text that is not INPUT=COLUMN[,COLUMN…], and for an input that two texts name.
        """
        columns: dict[str, list[str]] = {}
        for text in self.map:
            name, separator, listed = text.partition("=")
            names = [column.strip() for column in listed.split(",")]
            if not (separator and name and all(names)):
                raise UsageError(f"--map {text} names no input and its columns", "--map features=likes,shows")
            if name.strip() in columns:
                raise UsageError(
                    f"--map names the columns of {name.strip()} twice",
                    f"--map {name.strip()}={','.join(columns[name.strip()] + names)}",
                )
            columns[name.strip()] = names
        return columns
