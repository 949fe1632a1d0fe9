"""Delimited files: what a record is, by the csv module, by pyarrow, and by any other reading of it."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rbserve.core.errors import DataError, UsageError
from rbserve.train.datasets import delimited
from rbserve.train.datasets.delimited import (
    COMMAS,
    EVENTS,
    ITEMS,
    DelimitedFile,
    csv_records,
    delimiter_of,
)
from rbserve.train.datasets.options import Dialect
from rbserve.train.datasets.raw_file import LONGEST_LINE, LOST_LETTERS, NUL
from rbserve.train.datasets.record_lines import LONGEST_RECORD
from rbserve.train.protocol.tally import Tally

NAMES = ("id", "title")
LITERAL = Dialect(",", "literal")
AUTO = Dialect(",", "auto")
ESCAPED = 'row with \\" for a quotation mark'
STRAY = "row with a stray quotation mark, read as it stands"


def _write(folder: Path, content: bytes | str, name: str = "items.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _read(
    path: Path, dialect: Dialect = AUTO, tally: Tally | None = None, **options: Any
) -> list[tuple[str, ...]]:
    file = DelimitedFile(path, dialect, tally if tally is not None else Tally(), **options)
    batches = file.batches(range(len(file.names)))
    return [
        row
        for batch in batches
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True)
    ]


def _outcome(content: bytes, dialect: Dialect, **options: Any) -> tuple[Any, ...]:
    """Rows and counts, or the error."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        path = _write(Path(folder), content)
        try:
            rows = _read(path, dialect, tally, **options)
        except DataError as error:
            return (error.message.replace(str(path), ""),)
    return rows, dict(tally.dropped), dict(tally.repaired)


# ---- Records


def test_columns_come_by_name_in_the_order_asked_for(tmp_path: Path) -> None:
    path = _write(tmp_path, '\ufeff"id", year,title\n1,1990,One\n2,1991,Two\n')
    tally = Tally()
    assert list(csv_records(path, ["title", "id"], tally)) == [("One", "1"), ("Two", "2")]
    assert list(csv_records(path, ["year"], Tally())) == [("1990",), ("1991",)]
    assert tally.repaired == {"byte order mark": 1}
    with pytest.raises(DataError, match=r"items\.csv lacks the column 'name'; .* id, year, title") as error:
        list(csv_records(path, ["id", "name"], Tally()))
    assert "','" in (error.value.hint or "")


def test_delimiters_quotation_marks_and_carriage_returns_stay_in_a_field(tmp_path: Path) -> None:
    path = _write(tmp_path, 'id,title\r\n1,"a, ""b""\r\nc\nd\re"\r\n2,plain\r\n')
    assert _read(path) == [("1", 'a, "b"\r\nc\nd\re'), ("2", "plain")]
    path = _write(tmp_path, "id,title\n1,a\rb\n2,\rc\r\r\n3,d\n4,e\r")
    expected = [("1", "a\rb"), ("2", "\rc\r"), ("3", "d"), ("4", "e\r")]
    assert _read(path) == _read(path, LITERAL) == expected


def test_a_header_is_a_record_like_any_other(tmp_path: Path) -> None:
    path = _write(tmp_path, '\n"Customer, ID","the\nitem",it is 12" wide\nu,a,1\n')
    assert DelimitedFile(path, AUTO, Tally()).names == ["Customer, ID", "the\nitem", 'it is 12" wide']
    assert _read(path) == [("u", "a", "1")]
    for text, delimiter in (('"a, b, c"\titem\n', "\t"), ("a,b\tc,d\n", ","), ("only\n", ",")):
        assert delimiter_of(_write(tmp_path, text)) == delimiter


def test_rows_of_another_width_are_counted_and_blank_lines_are_not(tmp_path: Path) -> None:
    path = _write(tmp_path, 'id,title\n\n1,One\n2\n3,Three,3\n\n4,Four\n"5,Five"\n\r\n')
    for dialect, ids in ((AUTO, ["1", "4"]), (LITERAL, ["1", "4", '"5'])):
        tally = Tally()
        assert [row[0] for row in _read(path, dialect, tally, reasons=ITEMS)] == ids
        assert tally == Tally(dropped=Counter({ITEMS.fields: 5 - len(ids)}))
        assert "3,Three,3" in tally.examples[ITEMS.fields] or "2" in tally.examples[ITEMS.fields]


@pytest.mark.parametrize("content", [b"", b"\n\r\n\n", b"\xef\xbb\xbf", gzip.compress(b"", mtime=0)])
def test_an_empty_file_is_an_error_and_a_header_alone_is_none(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match=r"items\.csv is empty"):
        _read(_write(tmp_path, content))
    assert _read(_write(tmp_path, content), header=NAMES) == []
    assert _read(_write(tmp_path, "id,title")) == []


def test_an_open_quotation_mark_does_not_swallow_the_file(tmp_path: Path) -> None:
    rest = "".join(f"{number},title\n" for number in range(5_000))
    for end in ("", "3,Three\n", f'{rest}3,Three"\n', f"{rest}"):
        path = _write(tmp_path, f'id,title\n\n1,One\n2,"Two\n{end}')
        with pytest.raises(DataError, match=r"items\.csv, line 4: a quotation mark is not closed") as error:
            _read(path)
        assert "--quotes literal" in (error.value.hint or "")
        assert len(_read(path, LITERAL)) == 2 + end.count("\n")


def test_a_record_may_span_lines_and_be_long_but_not_without_limit(tmp_path: Path) -> None:
    text = "\n".join(["x"] * LONGEST_RECORD)
    assert _read(_write(tmp_path, f'id,title\n1,"{text}"\n')) == [("1", text)]
    with pytest.raises(DataError, match="line 2: a quotation mark is not closed"):
        _read(_write(tmp_path, f'id,title\n1,"{text}\nx"\n'))
    long = "x" * 3_000_000
    assert _read(_write(tmp_path, f'id,title\n1,"{long}"\n')) == [("1", long)]
    endless = ("x" * (LONGEST_LINE // 4) + "\n") * 5
    with pytest.raises(DataError, match=r"items\.csv, line 2: field larger than field limit"):
        _read(_write(tmp_path, f'id,title\n1,"{endless}"\n'))


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    endless = _write(tmp_path, gzip.compress(b"id,title\n" + bytes(4 * LONGEST_LINE)), "endless.gz")
    tracemalloc.start()
    with pytest.raises(DataError, match=r"endless\.gz, line 2 has more than"):
        _read(endless)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * LONGEST_LINE


# ---- Quotation marks that are only signs


def test_records_that_a_quotation_mark_would_swallow_are_asked_about(tmp_path: Path) -> None:
    rows = ['A00,"Heroes', "A01,Low", 'A02,Lodger 12"', *(f"A{row:02},Title {row}" for row in range(3, 30))]
    path = _write(tmp_path, "\n".join(["item_id,title", *rows, ""]))
    with pytest.raises(DataError, match=r"items\.csv, lines 2 to 4: one record") as error:
        _read(path)
    assert "--quotes csv" in (error.value.hint or "")
    assert "--quotes literal" in (error.value.hint or "")
    tally = Tally()
    assert len(_read(path, COMMAS, tally, reasons=ITEMS)) == 28
    assert tally.repaired == {"item record over several lines, the first at line 2": 1}
    literal = _read(path, LITERAL, tally := Tally())
    assert [",".join(row) for row in literal] == rows
    assert tally == Tally()


def test_clicks_of_a_hundred_lines_are_not_taken_for_one(tmp_path: Path) -> None:
    words = {1: '"blade runner', 100: '12"'}
    rows = [f"u{row % 40}\tA{row % 30}\t{row}\t{words.get(row, 'film')}" for row in range(1, 241)]
    path = _write(tmp_path, "\n".join(["user_id\titem_id\tts\tquery", *rows]))
    with pytest.raises(DataError, match="lines 2 to 101: one record"):
        _read(path, Dialect("\t"))
    assert len(_read(path, Dialect("\t", "literal"))) == 240


def test_texts_of_several_lines_are_counted_and_taken(tmp_path: Path) -> None:
    rows = "".join(f'{row},"first line\nsecond line {row}"\n' for row in range(50))
    read = _read(_write(tmp_path, f"id,title\n{rows}"), tally=(tally := Tally()))
    assert read == [(f"{row}", f"first line\nsecond line {row}") for row in range(50)]
    assert tally.repaired == {"record over several lines, the first at line 2": 50}


def test_a_backslash_before_a_quotation_mark_keeps_it(tmp_path: Path) -> None:
    path = _write(
        tmp_path, 'id,title\n1,"Say \\"Hi\\" now"\n2,"Say \\"Hi, there\\"\nnow"\n3,"C:\\"\n4,a \\"b\\"\n'
    )
    read = _read(path, tally=(tally := Tally()))
    assert read == [("1", 'Say "Hi" now'), ("2", 'Say "Hi, there"\nnow'), ("3", "C:\\"), ("4", 'a \\"b\\"')]
    assert tally == Tally(repaired=Counter({ESCAPED: 2}))


def test_text_behind_a_closing_quotation_mark_is_kept_as_it_stands_or_counted(tmp_path: Path) -> None:
    path = _write(tmp_path, 'id,title\n1,"Blade" runner\n2,"a" b, c\n3,"x\ny" z\n4,Four\n')
    read = _read(path, tally=(tally := Tally()), reasons=ITEMS)
    assert read == [("1", '"Blade" runner'), ("3", '"x'), ("4", "Four")]
    assert tally == Tally(dropped=Counter({ITEMS.fields: 2}), repaired=Counter({STRAY: 2}))
    assert tally.examples[STRAY] == 'line 2: 1,"Blade" runner'


# ---- The first so many records


@pytest.mark.parametrize("text", ["plain", '"quoted"', '"two\nlines"', "\n", '"three\n\nlines, say"'])
def test_max_rows_counts_records(text: str, tmp_path: Path) -> None:
    content = "id,title\n" + "".join(f"{row},{text}\n" for row in range(240))
    records = list(csv.reader(line for line in io.StringIO(content, newline="")))[1:]
    expected = [tuple(record) for record in records if record]
    for count in (1, 7, 120, 239, 240, 300):
        for chunk in (10, 300, 1 << 20):
            assert _read(_write(tmp_path, content), COMMAS, max_rows=count, chunk=chunk) == expected[:count]


def test_a_record_that_is_dropped_is_one_of_the_first_so_many(tmp_path: Path) -> None:
    content = "id,title\n1,a\n2\n3,b\n4,\udcff\n5,c\n".encode(errors="surrogateescape")
    rows = _read(_write(tmp_path, content), tally=(tally := Tally()), max_rows=4)
    assert rows == [("1", "a"), ("3", "b")]
    assert tally.dropped == {EVENTS.fields: 1, EVENTS.undecodable: 1}


# ---- Letters


@pytest.mark.parametrize("encoding", ["gbk", "utf-16-le", "utf-16-be", "utf-32", "gb18030", "utf-7", "utf-8"])
def test_an_encoding_is_what_the_user_says(encoding: str, tmp_path: Path) -> None:
    rows = [(f"{row}", f"标题 {row}, 茶") for row in range(300)]
    content = "id;title\r\n" + "".join(f'{item};"{title}"\r\n' for item, title in rows)
    for packed in (content.encode(encoding), gzip.compress(content.encode(encoding))):
        path = _write(tmp_path, packed)
        assert _read(path, Dialect(";", "auto", encoding), tally := Tally(), chunk=100) == rows
        assert tally == Tally()


@pytest.mark.parametrize("mark", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_tells_the_encoding(mark: str, tmp_path: Path) -> None:
    content = "id,title\n1,Zürich\n".encode(mark)
    assert _read(_write(tmp_path, content)) == [("1", "Zürich")]
    big = codecs.BOM_UTF16_BE + "id,title\n1,Zürich\n".encode("utf-16-be")
    assert _read(_write(tmp_path, big)) == [("1", "Zürich")]


def test_letters_that_are_lost_are_called_lost_and_rows_of_events_are_dropped(tmp_path: Path) -> None:
    path = _write(tmp_path, "id,title\n1,Zürich\n2,Bern\n3,\0Gen\0f\n4,Genève\n".encode("latin-1"))
    kept = _read(path, tally=(tally := Tally()), reasons=ITEMS)
    assert kept == [("1", "Z\ufffdrich"), ("2", "Bern"), ("3", "Genf"), ("4", "Gen\ufffdve")]
    assert tally == Tally(repaired=Counter({LOST_LETTERS: 2, NUL: 1}))
    assert _read(path, tally=(tally := Tally())) == kept[1:3]
    assert tally == Tally(dropped=Counter({EVENTS.undecodable: 2}), repaired=Counter({EVENTS.nul: 1}))
    assert _read(path, Dialect(",", "auto", "latin-1"), tally := Tally())[0] == ("1", "Zürich")


def test_what_another_encoding_cannot_decode_is_lost_too(tmp_path: Path) -> None:
    path = _write(tmp_path, b"id,title\n1,\xb2\xe8\n2,\x80\xff\n3,ok\n")
    read = _read(path, Dialect(",", "auto", "gbk"), tally := Tally(), reasons=ITEMS)
    assert read[0] == ("1", "茶")
    assert "\ufffd" in read[1][1]
    assert tally.repaired == {LOST_LETTERS: 1}


@pytest.mark.parametrize("name", ["klingon", "hex", "rot13", "", " "])
def test_an_encoding_that_is_none_is_a_usage_error(name: str) -> None:
    if name:
        with pytest.raises(UsageError, match="unknown encoding") as error:
            Dialect(encoding=name)
        assert "gbk" in (error.value.hint or "")
    for delimiter in ("", '"', "\n", "ab"):
        with pytest.raises(UsageError, match="--delimiter takes one character"):
            Dialect(delimiter)


# ---- One idea of a record, whoever reads

PIECES = [b"1,One\n", b'"', b'""', b",", b"\n", b"\r\n", b"\r", b"\0", b"\xff", b" ", b"a", b"\xc2\x85", b'\\"',
          b'"a",', b',"b"\n', b'"c, d"', b"\xef\xbb\xbf", "é".encode(), b"\n\n"]  # fmt: skip
RAW = st.binary(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join)
WELL = st.lists(st.lists(st.text('",;\n a"é', max_size=5), min_size=1, max_size=3), max_size=12)


def _written(rows: Sequence[Sequence[str]], quote: bool, end: str) -> bytes:
    file = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if quote else csv.QUOTE_MINIMAL
    csv.writer(file, quoting=quoting, lineterminator=end).writerows(rows)
    return file.getvalue().encode()


def _by_csv_module(content: bytes, dialect: Dialect, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    with monkeypatch.context() as patch:
        patch.setattr(DelimitedFile, "_is_plain", lambda *_: False)
        return _outcome(content, dialect, header=NAMES)


@pytest.mark.parametrize("quotes", ["auto", "csv", "literal"])
@given(content=RAW, chunk=st.integers(1, 50))
@example(content=b'1,"a\n"\n2,b\n', chunk=1)
@example(content=b'"",""\n"""",""""\n', chunk=3)
def test_pyarrow_and_the_csv_module_and_any_size_of_chunks_read_the_same(
    quotes: Any, content: bytes, chunk: int
) -> None:
    dialect = Dialect(",", quotes)
    with pytest.MonkeyPatch.context() as patch:
        expected = _by_csv_module(content, dialect, patch)
    assert _outcome(content, dialect, header=NAMES) == expected
    assert _outcome(content, dialect, header=NAMES, chunk=chunk) == expected


@given(rows=WELL, quote=st.booleans(), end=st.sampled_from(["\n", "\r\n"]), chunk=st.integers(1, 60))
def test_what_csv_writes_is_read_back_or_counted(
    rows: list[list[str]], quote: bool, end: str, chunk: int
) -> None:
    content = _written(rows, quote, end)
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        read = _read(_write(Path(folder), content), COMMAS, tally, header=NAMES, chunk=chunk)
    assert read == [tuple(row) for row in rows if len(row) == 2]
    assert sum(tally.dropped.values()) == sum(len(row) != 2 for row in rows)


@given(content=RAW, named=st.booleans())
def test_every_line_of_any_file_is_a_record_or_counted_where_quotation_marks_are_signs(
    content: bytes, named: bool
) -> None:
    if content.startswith((b"\x1f\x8b", b"\xff\xfe", b"\xfe\xff")):
        return
    outcome = _outcome(
        content if named else b"id,title\n" + content, LITERAL, header=NAMES if named else None
    )
    rows, dropped, _ = outcome
    body = content.removeprefix(b"\xef\xbb\xbf") if named else content
    lines = [line for line in body.split(b"\n") if line.strip(b"\r\0")]
    assert len(rows) + sum(dropped.values()) == len(lines)


def test_a_chunk_is_read_by_pyarrow_where_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast path is taken for plain files, with and without quotation marks."""

    def refuse(*_: object) -> None:
        raise AssertionError

    for content in ("id,title\n" + '1,"a, ""b"""\n' * 9, "id,title\r\n" + "1,a é\r\n" * 9):
        path = _write(tmp_path, content)
        file = DelimitedFile(path, AUTO, Tally())
        with monkeypatch.context() as patch:
            patch.setattr(delimited.DelimitedFile, "_parse", refuse)
            assert sum(batch.num_rows for batch in file.batches([0])) == 9
