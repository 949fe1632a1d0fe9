"""The table of what a push or a pull moved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rbserve.cli.console import print_json

if TYPE_CHECKING:
    from rbserve.store.store import Transfer

MB = 1e6


def show_transfers(transfers: Sequence[Transfer], verb: str, as_json: bool) -> None:
    """Prints a line a name: its files, and how many of them were moved."""
    if as_json:
        print_json(transfers)
        return
    for transfer in transfers:
        moved = (
            f"{transfer.moved_files} of {transfer.files} files {verb}, {transfer.moved_bytes / MB:,.1f} MB"
        )
        same = f"{transfer.files} files, nothing to move"
        print(f"{transfer.name}: {moved if transfer.moved_files else same}")
