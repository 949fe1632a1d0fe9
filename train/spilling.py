"""A database in which more can be counted than memory holds: DuckDB, with a limit and a folder to spill into."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

MEMORY_A_THREAD = 512 << 20


def open_database(folder: Path, name: str, memory: int) -> Any:
    """A new database `name` in a folder, which takes about `memory` bytes at most."""
    import duckdb  # imported here: what is counted already needs no DuckDB

    database = duckdb.connect(str(folder / f"{name}.duckdb"))
    spilled = str(folder / "spilled").replace("'", "''")
    database.execute(f"set memory_limit = '{memory >> 20}MiB'")
    database.execute(f"set temp_directory = '{spilled}'")
    database.execute(f"set threads = {max(1, min(os.cpu_count() or 1, memory // MEMORY_A_THREAD))}")
    return database
