"""The values of fields in the database that a source is read into, as texts until the data set is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rbserve.core.fields import FieldScope, FieldSpec
from rbserve.core.types import Items
from rbserve.features.coding import MOST_VALUES

BATCH = 50_000


@dataclass(frozen=True)
class OwnFields:
    """The fields to be read, without sizes; `user_table`: those of users are in a table of their own.

    `most_values` is the number of distinct values above which codes are hashes; `allow_loss` goes on where many texts
    are no numbers.
    """

    specs: tuple[FieldSpec, ...] = ()
    user_table: bool = False
    most_values: int = MOST_VALUES
    allow_loss: bool = False

    def roles(self, *scopes: FieldScope) -> dict[str, FieldSpec]:
        """The fields of some scopes by the names of their columns in the database."""
        return {f"field_{place}": spec for place, spec in enumerate(self.specs) if spec.scope in scopes}

    @property
    def of_items(self) -> dict[str, FieldSpec]:
        """The fields that the table of items has."""
        return self.roles("item")

    @property
    def of_users(self) -> dict[str, FieldSpec]:
        """The fields that the table of users has, if there is one."""
        return self.roles("user") if self.user_table else {}

    @property
    def of_events(self) -> dict[str, FieldSpec]:
        """The fields that the table of events has."""
        return self.roles("context") if self.user_table else self.roles("user", "context")


NO_FIELDS = OwnFields()


def declared(roles: Iterable[str]) -> str:
    """SQL that declares a text column for each role, behind other columns."""
    return "".join(f", {role} varchar" for role in roles)


def selected(roles: Iterable[str]) -> str:
    """SQL that selects a column for each role, behind other columns."""
    return "".join(f", {role}" for role in roles)


def first_values(roles: Iterable[str], order: str) -> str:
    """SQL that aggregates each role to its first value in an order, behind other columns; of equals the least."""
    return "".join(
        f", arg_min({role}, row({order}, {role})) filter (where trim({role}) != '') as {role}"
        for role in roles
    )


class StoredFields:
    """The fields of a numbered workspace: `own_fields.FieldTables`. Users and events lie by number in its database."""

    def __init__(self, database: Any, own: OwnFields, events: Path) -> None:
        self._database, self._own, self._events = database, own, events
        self.specs: Sequence[FieldSpec] = own.specs
        self.most_values, self.allow_loss = own.most_values, own.allow_loss

    def of_items(self, items: Items) -> Iterator[dict[str, pa.Array]]:
        """The item fields of the given items, rising."""
        return self._lookup("item", "item", self._own.roles("item"), items)

    def of_users(self, users: NDArray[np.int32]) -> Iterator[dict[str, pa.Array]]:
        """The user fields of the given users, rising."""
        return self._lookup("usr", "usr", self._own.roles("user"), users)

    def of_events(self) -> Iterator[dict[str, pa.Array]]:
        """The context fields of all events, in the order of the file of events."""
        roles = self._own.roles("context")
        with pq.ParquetFile(self._events) as file:
            for batch in file.iter_batches(BATCH, columns=[*roles], use_threads=False):
                yield {spec.name: batch[role] for role, spec in roles.items()}

    def _lookup(
        self, table: str, key: str, roles: dict[str, FieldSpec], numbers: NDArray[np.int32]
    ) -> Iterator[dict[str, pa.Array]]:
        cursor = self._database.cursor()  # its own, since another query would end the stream of results
        cursor.register("wanted", pa.table({"number": pa.array(numbers)}))
        query = f"select {', '.join(roles)} from {table} join wanted on {key} = number order by {key}"
        for batch in cursor.sql(query).to_arrow_reader(BATCH):
            yield {spec.name: batch[role] for role, spec in roles.items()}
        cursor.close()
