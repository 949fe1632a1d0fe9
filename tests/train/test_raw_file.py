"""The start of a raw file, and whether it is whole: what DuckDB leaves to us."""

from __future__ import annotations

import gzip
import random
from pathlib import Path
from threading import Event

import pytest
import raw_layouts as raw
from hypothesis import given
from hypothesis import strategies as st

from rbserve.core.errors import DataError
from rbserve.train.datasets.delimited import EVENTS
from rbserve.train.datasets.raw_file import check_gzip, copy_first_lines, estimate_rows


@given(st.lists(st.binary(max_size=8).map(lambda line: line.replace(b"\n", b"")), max_size=20), st.booleans(),
       st.integers(1, 25))  # fmt: skip
def test_the_first_lines_are_copied_as_they_are(rows: list[bytes], packed: bool, count: int) -> None:
    content = b"\n".join(rows)
    with raw.workspace() as work:
        path, copy = work.folder / "raw", work.folder / "copy"
        path.write_bytes(gzip.compress(content) if packed else content)
        if path.read_bytes()[:2] == b"\x1f\x8b" and not packed:
            return  # a text that poses as gzip
        copy_first_lines(path, count, copy)
        assert copy.read_bytes() == content[: len(copy.read_bytes())]
        assert copy.read_bytes().count(b"\n") == min(count, content.count(b"\n"))


def test_lines_are_counted_across_parts_of_the_file(tmp_path: Path) -> None:
    lines = [b"x" * (number % 7) + b"\n" for number in range(600_000)]
    (tmp_path / "raw").write_bytes(b"".join(lines))
    copy_first_lines(tmp_path / "raw", 500_001, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"".join(lines[:500_001])


def test_a_flipped_bit_of_a_gzip_file_is_noticed(tmp_path: Path) -> None:
    lines = b"".join(b"%d,%d\n" % (number, number * 7919 % 1009) for number in range(20_000))
    whole = gzip.compress(lines, mtime=0)
    (tmp_path / "whole.gz").write_bytes(whole)
    check_gzip(tmp_path / "whole.gz", Event())
    draw = random.Random(3)
    for _ in range(20):
        damaged = bytearray(whole)
        damaged[draw.randrange(10, len(whole))] ^= 1 << draw.randrange(8)
        (tmp_path / "damaged.gz").write_bytes(damaged)
        with pytest.raises(DataError, match=r"damaged\.gz is damaged or truncated"):
            check_gzip(tmp_path / "damaged.gz", Event())


def test_damaged_interactions_are_an_error_though_duckdb_reads_them(tmp_path: Path) -> None:
    folder = raw.example("goodreads", tmp_path, gz=True)
    (path,) = folder.glob("*interactions*")
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # the checksum itself: every row can be read
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged or truncated: CRC check failed"):
        raw.load("goodreads", folder)


def test_a_limit_counts_every_line_before_it(tmp_path: Path) -> None:
    rows = [b"2018-09-20,u%d,%010d,0.05,2" % (row % 9, row % 5) for row in range(500)]
    rows.insert(50, b"2018-09-20,\xff,0000000001,0.05,2")
    header = b"t_dat,customer_id,article_id,price,sales_channel_id"
    raw.put(tmp_path, "transactions_train.csv", b"\n".join([header, *rows, b""]))
    raw.put(tmp_path, "articles.csv", "article_id,detail_desc\n" + "".join(f"{n:010},A\n" for n in range(5)))
    loaded = raw.load("hm", tmp_path, max_rows=100)
    assert len(loaded.events) == 99
    assert loaded.dropped == {EVENTS.undecodable: 1}


def test_rows_are_estimated_in_any_file(tmp_path: Path) -> None:
    content = b"".join(b"%06d,abc\n" % row for row in range(300_000))
    (tmp_path / "plain").write_bytes(content)
    (tmp_path / "packed").write_bytes(gzip.compress(content, compresslevel=1))
    (tmp_path / "broken").write_bytes(b"\x1f\x8b")
    assert 295_000 < estimate_rows(tmp_path / "plain") < 305_000
    assert 200_000 < estimate_rows(tmp_path / "packed") < 400_000
    assert estimate_rows(tmp_path / "plain", 7) == 7
    assert estimate_rows(tmp_path / "broken") == 0
