"""Invented rows in the layouts of Criteo's `train.txt` and Avazu's `train.csv`."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np

AVAZU_HEADER = (
    "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,device_id,device_ip,"
    "device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21"
)
CLICKED, PASSED = "68fd1e64", "05db9164"
"""Values of C1 that come with clicks and with none."""


def criteo_line(
    label: int | str, numbers: Sequence[int | str] = (), categories: Sequence[str] = (), width: int = 40
) -> str:
    """A row; what is not given is empty."""
    cells = [str(label), *map(str, numbers), *[""] * (13 - len(numbers)), *categories]
    return "\t".join([*cells, *[""] * 40][:width])


def criteo_lines(rows: int, seed: int = 0) -> list[str]:
    """Rows whose label follows C1, nine times of ten; I2 is negative at times, C2 is missing at times, C3 is rare."""
    rng = np.random.default_rng(seed)
    lines = []
    for row in range(rows):
        liked = rng.random() < 0.5
        label = int(liked if rng.random() < 0.9 else not liked)
        second = ["4f25e98b", "a0b1c2d3", ""][rng.integers(3)]
        numbers = [int(rng.integers(10)), int(rng.integers(-2, 3)), ""]
        lines.append(criteo_line(label, numbers, [CLICKED if liked else PASSED, second, f"{row:08x}"]))
    return lines


def avazu_lines(rows: int, hours: int = 40, seed: int = 0) -> list[str]:
    """Rows of consecutive hours from 2014-10-21, a Tuesday, whose label follows banner_pos, nine times of ten."""
    rng = np.random.default_rng(seed)
    lines = []
    for row in range(rows):
        hour = row * hours // rows
        place = int(rng.integers(2))
        label = int(place if rng.random() < 0.9 else 1 - place)
        device = ["a99f214a", "c357dbff", "0f7c61dc"][rng.integers(3)]
        cells = [
            f"1000{row}", label, f"1410{21 + hour // 24}{hour % 24:02}", 1005, place, "1fbe01fe", "f3845767",
            "28905ebd", "ecad2386", "7801e8d9", "07d7df22", device, f"{row:08x}", "44956a24", 1, 2, 15706, 320, 50,
            1722, 0, 35, -1, 79,
        ]  # fmt: skip
        lines.append(",".join(map(str, cells)))
    return lines


def write_log(path: Path, lines: Sequence[str]) -> Path:
    """Writes the lines, packed where the name ends in .gz."""
    text = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path
