"""Product code says the noun: empty names, riddles for docstrings and doubled class names may only become fewer."""

from __future__ import annotations

from pathlib import Path

import pytest
from voice import COUNTS, LONG, SAME, TWICE, UNDOCUMENTED, count_voice, product_files

ROOT = Path(__file__).resolve().parent.parent
LIMITS = {
    "one": 0,
    "found": 2,
    "asked": 9,
    "some": 0,
    "what": 1,
    "said": 0,
    "told": 0,
    "kept": 13,
    "given": 12,
    SAME: 0,
    TWICE: 0,
    LONG: 6,
    UNDOCUMENTED: 67,
}


@pytest.fixture(scope="module")
def places() -> dict[str, list[str]]:
    counted, _ = count_voice(ROOT)
    return counted


@pytest.mark.parametrize("count", COUNTS)
def test_no_count_is_above_its_limit(count: str, places: dict[str, list[str]]) -> None:
    assert len(places[count]) <= LIMITS[count], "\n".join(places[count])


def test_every_count_is_found_in_code_that_has_it_once(tmp_path: Path) -> None:
    (tmp_path / "rbserve" / "room").mkdir(parents=True)
    (tmp_path / "train").mkdir()
    long = "\n".join(f"    x = {line}" for line in range(60))
    (tmp_path / "rbserve" / "room" / "names.py").write_text(
        '"""Names."""\n'
        "from a import one as b\n"
        "one = {}['one']\n"
        "found, asked, some, what, said, told, kept, given = b.one\n"
    )
    (tmp_path / "rbserve" / "room" / "short.py").write_text(
        '"""The same names of functions and classes."""\nclass Row:\n    """A row."""\n'
        "    def _hidden(self): ...\ndef _private():\n    def inner(): ...\n"
    )
    (tmp_path / "train" / "long.py").write_text(
        f'"""A long function."""\nclass _Hidden:\n    def method(self): ...\n'
        f'class Row:\n    """Another."""\nasync def undocumented():\n{long}\n'
    )
    places, names = count_voice(tmp_path)
    assert {count: len(lines) for count, lines in places.items()} == dict.fromkeys(COUNTS, 1)
    assert names == 1 + 8 + 1 + 60
    assert places["one"] == ["rbserve/room/names.py:3 one"]
    assert places[TWICE] == ["rbserve/room/short.py:2 Row, train/long.py:4 Row"]
    assert places[LONG] == places[UNDOCUMENTED] == ["train/long.py:6 undocumented"]


def test_a_file_that_a_link_shows_twice_is_counted_once(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "loop.py").write_text('"""The loop."""\none = 1\n')
    (tmp_path / "rbserve").mkdir()
    (tmp_path / "rbserve" / "train").symlink_to(tmp_path / "train")
    assert product_files(tmp_path) == [tmp_path / "train" / "loop.py"]
    places, _ = count_voice(tmp_path)
    assert places["one"] == ["train/loop.py:2 one"]
