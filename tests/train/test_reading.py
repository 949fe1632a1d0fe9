"""Raw item files: as they should be, as they are, and any bytes at all."""

from __future__ import annotations

import gzip
import json
import random
import tempfile
import tracemalloc
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbserve.core.errors import DataError
from rbserve.core.ids import value_text
from rbserve.train.datasets.raw_file import LONGEST_LINE, LOST_LETTERS, NUL
from rbserve.train.datasets.reading import clean_text, items, json_records, lines, locate
from rbserve.train.protocol.tally import Tally

NO_OBJECT = "item row that is no JSON object"
NAMES = ("id", "title")


def _write(folder: Path, content: bytes | bytearray | str, name: str = "items.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@contextmanager
def _file(content: bytes) -> Iterator[Path]:
    """A file for one example of a property; `tmp_path` would be shared by all examples."""
    with tempfile.TemporaryDirectory() as folder:
        yield _write(Path(folder), content)


def test_a_file_is_found_by_pattern_then_plain_then_gz_then_sorted_order(tmp_path: Path) -> None:
    for name in ("books.csv.gz", "books.csv"):  # the second is there beside the first
        assert _write(tmp_path, b"", name) == locate(tmp_path, "books.csv")
    second, first = (_write(tmp_path, b"", name) for name in ("b_titles.csv", "a_titles.csv"))
    assert locate(tmp_path, "none.csv", "*_titles.csv", "books.csv") == first != second


def test_a_pattern_may_name_a_folder_and_what_was_not_found_is_named(tmp_path: Path) -> None:
    (tmp_path / "books.csv").mkdir()  # a folder is no file, and is not searched
    works = _write(tmp_path / "books.csv", b"", "works.json")
    assert locate(tmp_path, "books.csv/works.json") == works
    with pytest.raises(DataError, match=rf"{tmp_path.name} holds no file books\.csv or x\.json") as nothing:
        locate(tmp_path, "books.csv", "x.json")
    with pytest.raises(DataError, match=r"no folder .*nowhere.* books\.csv") as nowhere:
        locate(tmp_path / "nowhere", "books.csv")
    assert nothing.value.hint == nowhere.value.hint == "--raw names the folder that holds the files"
    with pytest.raises(DataError, match="no folder"):
        locate(_write(tmp_path, b"", "file"), "books.csv")


def test_only_line_feeds_end_lines(tmp_path: Path) -> None:
    odd = "two\x85\u2028\u2029\x0b\x0c\x1c\x1d\x1e still two"
    path = _write(tmp_path, f"one\r\n{odd}\nthree\rstill three\n\nlast")
    read = list(lines(path, tally := Tally()))
    assert read == ["one", odd, "three\rstill three", "", "last"]
    assert tally == Tally()


def test_gzip_is_told_by_its_first_bytes_and_not_by_its_name(tmp_path: Path) -> None:
    assert list(lines(_write(tmp_path, gzip.compress(b"a\nb\n"), "a.csv"), Tally())) == ["a", "b"]
    assert list(lines(_write(tmp_path, b"a\nb\n", "b.csv.gz"), Tally())) == ["a", "b"]
    joined = _write(tmp_path, gzip.compress(b"a\nb") + gzip.compress(b"c\nd"))
    assert list(lines(joined, Tally())) == ["a", "bc", "d"]


def test_what_is_mended_in_a_line_is_counted_once(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbfcaf\xe9 \xff\xfe\n\xef\xbb\xbfgood \xc3\xa9\n\0a\0b\n\0\xff\n"
    read = list(lines(_write(tmp_path, content), tally := Tally()))
    assert read == ["caf\ufffd \ufffd\ufffd", "\ufeffgood é", "ab", "\ufffd"]
    assert tally.repaired == {"byte order mark": 1, LOST_LETTERS: 2, NUL: 2}


def test_a_file_that_is_damaged_or_missing_or_a_folder_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(random.Random(1).randbytes(500).hex().encode())
    broken = [bytearray(whole[:cut]) for cut in (2, 9, 40, -9, -1)]
    for place in (2, 200, -6):  # the method, the content, the checksum
        broken.append(bytearray(whole))
        broken[-1][place] ^= 0xFF
    for content in broken:
        path = _write(tmp_path, content, "items.json.gz")
        with pytest.raises(DataError, match=r"items\.json\.gz is damaged or truncated"):
            list(lines(path, Tally()))
    with pytest.raises(DataError, match=r"no file .*missing\.csv"):
        next(lines(tmp_path / "missing.csv", Tally()))
    with pytest.raises(DataError, match="cannot read"):
        next(lines(tmp_path, Tally()))


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    endless = _write(tmp_path, gzip.compress(b"short\n" + bytes(4 * LONGEST_LINE)), "endless.gz")
    tracemalloc.start()
    with pytest.raises(DataError, match=r"endless\.gz, line 2 has more than"):
        list(lines(endless, Tally()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * LONGEST_LINE


PIECES = [b"id,title\n", b"1,One\n", b'"', b",", b"\n", b"\r", b"\0", b"\xff", b" ", b"a", b"\xc2\x85",
          b"\xef\xbb\xbf"]  # fmt: skip
RAW = st.binary() | st.lists(st.sampled_from(PIECES)).map(b"".join)


def _physical(content: bytes) -> list[bytes]:
    """The lines by a reading of its own: as many as line feeds, and one more for what follows the last."""
    physical = content.split(b"\n")
    return physical if physical[-1] else physical[:-1]


def _not_blank(content: bytes) -> int:
    """How many lines hold something but white space, NUL characters and a byte order mark."""
    texts = [line.replace(b"\0", b"") for line in _physical(content.removeprefix(b"\xef\xbb\xbf"))]
    return sum(text.decode(errors="replace").strip() != "" for text in texts)


def _read(records: Iterable[Any]) -> list[Any] | None:
    """All of them, or nothing where the file is a `DataError`; any other error is a failure."""
    try:
        return list(records)
    except DataError:
        return None


@given(RAW)
def test_every_line_of_any_bytes_is_read_and_none_is_invented(content: bytes) -> None:
    """Plain or gzip, as many lines come out as there are; what is mended is counted by line."""
    physical = _physical(content)
    for stored in (content, gzip.compress(content)):
        tally = Tally()
        with _file(stored) as path:
            read = _read(lines(path, tally))
        if read is None:
            assert stored == content
            assert content.startswith(b"\x1f\x8b")
            continue
        assert len(read) == len(physical)
        assert not any("\n" in line or "\0" in line for line in read)
        assert tally.repaired[NUL] == sum(b"\0" in line for line in physical)
        assert tally.repaired[LOST_LETTERS] == sum(
            "\ufffd" in line.decode(errors="replace") for line in physical
        )
        assert tally.repaired["byte order mark"] == content.startswith(b"\xef\xbb\xbf")
        assert not tally.dropped


@given(st.binary(), st.integers(0, 60))
def test_any_damage_of_a_gzip_is_a_data_error_at_most(content: bytes, place: int) -> None:
    damaged = bytearray(gzip.compress(content))
    damaged[2 + place % (len(damaged) - 2)] ^= 0x55
    with _file(bytes(damaged)) as path:
        _read(lines(path, Tally()))


PLAIN = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


def test_fields_of_json_lines_become_text_or_nothing_and_may_have_any_name(tmp_path: Path) -> None:
    rows = [{"asin": "1", "title": "One", "also": [1, {"x": 2}]}, {"asin": 2, "title": 2.5}, {"asin": {"no": 1}},
            {"title": True, "asin": -12345678901234567890123}, {"asin": None, "title": ["no"]}, {}]  # fmt: skip
    tally = Tally()
    read = list(json_records(_write(tmp_path, "\n\n".join(map(json.dumps, rows))), ["asin", "title"], tally))
    none = (None, None)
    assert read == [("1", "One"), ("2", "2.5"), none, ("-12345678901234567890123", "true"), none, none]
    assert tally == Tally()
    path = _write(tmp_path, '\ufeff{"class": 1, "best id": "a\u2028b\x85c", "field_0": 3, "": 4}\n')
    read = list(json_records(path, ["best id", "class", "", "field_0"], Tally()))
    assert read == [("a\u2028b\x85c", "1", "4", "3")]


BAD_JSON = ["[1]", '"text"', "1", "null", "{", '{"asin": 1', "{'asin': 1}", '{"asin": NaN}', '{"asin": "\\ud800"}',
            f'{{"asin": {"9" * 5_000}}}', '{"asin": 1e999}', "[" * 50_000, '{"asin":' * 50_000, '{"x":' + "[" * 50_000,
            "\ufffd", '{"asin": 1} {"asin": 2}']  # fmt: skip


@pytest.mark.parametrize("line", BAD_JSON, ids=range(len(BAD_JSON)))
def test_lines_that_hold_no_json_object_are_counted(tmp_path: Path, line: str) -> None:
    tally = Tally()
    path = _write(tmp_path, f'{{"asin": "1"}}\n{line}\n \t\n{{"asin": "2"}}\r\n', "meta.json")
    assert list(json_records(path, ["asin"], tally)) == [("1",), ("2",)]
    assert tally == Tally(dropped=Counter({NO_OBJECT: 1}))


SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | PLAIN
ROW = st.dictionaries(st.sampled_from(["id", "title", "other"]), SCALAR | st.lists(SCALAR))


@given(st.lists(ROW, min_size=1))
def test_what_json_writes_is_read_back(rows: list[dict[str, object]]) -> None:
    def expected(value: object) -> str | None:
        return None if value is None or isinstance(value, list) else value_text(value)

    tally = Tally()
    with _file("\n".join(map(json.dumps, rows)).encode()) as path:
        read = list(json_records(path, NAMES, tally))
    assert read == [(expected(row.get("id")), expected(row.get("title"))) for row in rows]
    assert tally == Tally()


JSON_PIECES = [b'{"id":', b"{}", b"[", b"}", b'"', b"1", b"\n", b"\xff", b"\\"]


@given(RAW | st.lists(st.sampled_from(JSON_PIECES)).map(b"".join))
def test_every_line_of_any_json_file_is_read_or_counted(content: bytes) -> None:
    tally = Tally()
    with _file(content) as path:
        read = _read(json_records(path, NAMES, tally))
    if read is None:
        assert (
            not _not_blank(content) or content.startswith(b"\x1f\x8b") or b"[" in content or b"{" in content
        )
        return
    assert len(read) + tally.dropped[NO_OBJECT] == _not_blank(content)


ENTITIES = {"Caf&eacute; &amp; Bar": "Café & Bar", "&amp;quot;Live&amp;quot;": '"Live"', "A &lrm;&ndash; B": "A – B",
            "The 60&#39;s &#x26; more": "The 60's & more", "Is &lt; 3 &gt; 2": "Is < 3 > 2",
            "A&#0;B&#xD800;C&#7;D": "A\ufffdB\ufffdCD"}  # fmt: skip
TAGS = {"<i>Album</i>s by <B>me</B>": "Albums by me", "one<br>two<br/>three<br />four</p>": "one two three four",
        '<a href="https://x.example/?a=b" target=_blank>here</a> we go': "here we go", "<<i>i>nested": "nested",
        '<span class="bold">Title</span>': "Title", 'Title <img src="cover.jpg" />': "Title", "<br/>": "",
        'Band,Album,A Label,Pop,Rock - General" />': "Band,Album,A Label,Pop,Rock - General"}  # fmt: skip
SPACES = {"  a \t\r\n b\xa0\u3000\u2028\x85c ": "a b c", "a\u200bb": "a b", "a\x00\x07\x1b\x7f\x9fb": "ab", "": "",
          "so\xadft\u200e\ufeff \u2060\u202bhyphen\u202c": "soft hyphen", "\u200d \u200c": "",
          "half \ud83d a pair": "half a pair"}  # fmt: skip
GOOD = ["R & B <3", "A < B", "a<b and c>d", "<b and c>", "x > y", "I <3 U / you", "AC/DC", "<", "&", '12" Mixes',
        "No Page Start", "function() and time()", "{curly}", "nan", "None", "null", '7" / 12"', "<Untitled>", "</3",
        "می\u200cخواهم", "👩\u200d🚀 in space",
        "ROCK&REGGAE &c. R&B; AT&T &unknown; &; &#; &#x; &#99999999999;"]  # fmt: skip
RUBBISH = ['<span class="a-size-large a-color-base a-text-bold', "<div id='title", '<SPAN CLASS="x', "a </div> b",
           '<td class="price">Some Title</td>', "var aPageStart = 1;", "(new Date()).getTime();", "x <script>alert(1)",
           "<style>.a{}", "<STYLE type=",
           '&lt;span class="a-size', "\n\n  var aPageStart\n",
           f"&{'amp;' * 40}lt;"]  # fmt: skip


def test_a_text_is_cleaned_and_what_was_done_is_told() -> None:
    for raw, text in ENTITIES.items():
        assert clean_text(raw) == (text, True, False, False)
    for raw, text in TAGS.items():
        assert clean_text(raw) == (text, False, True, False)
    for raw, text in [*SPACES.items(), *zip(GOOD, GOOD, strict=True)]:
        assert clean_text(raw) == (text, False, False, False)
    for raw in RUBBISH:
        assert clean_text(raw)[::3] == ("", True)
    assert clean_text("&lt;i&gt;Album&lt;/i&gt;") == ("Album", True, True, False)


MARKUP = ["&", "amp;", "lt;", "gt;", "quot;", "#38;", "#x3c;", "nbsp;", "lrm;", "#10;", "#127;", "<", ">", "i", "br",
          "/", " ", '"', "=", "a", "span class=", "</div", "\u200b", "\u200c", "\u200d", "\xad", "\n"]  # fmt: skip
INVISIBLE = st.text(st.characters(categories=["Cc", "Cf", "Zs", "Zl", "Zp", "Cs"]))
ANY_TEXT = st.text() | st.lists(st.sampled_from(MARKUP)).map("".join) | INVISIBLE


@given(ANY_TEXT)
def test_a_clean_text_is_its_own_clean_text_and_holds_no_controls(raw: str) -> None:
    text = clean_text(raw).text
    assert clean_text(text) == (text, False, False, False)
    assert not any(unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for sign in text)
    assert text == " ".join(text.split())
    assert len(text) <= len(raw)


def test_cleaning_hostile_texts_takes_no_more_than_linear_time() -> None:
    for piece in (*MARKUP, "<a x=", "&#1", "<i ", '<a x="', "&amp;", "<a x=y ", "&lt;i", ' x="y"', "\u200d "):
        clean_text("<a" + piece * (200_000 // len(piece)))  # anything quadratic runs into the time limit


def test_items_without_id_or_text_and_rubbish_are_counted_and_placeholders_stay() -> None:
    records = [
        (" 1 ", " One "), (None, "text"), ("", "text"), (" \t", None), ("2", None), ("3", " \u200e"), ("4", "<br>"),
        ("5", '<span class="a'), ("nan", "nan"), ("null", "None"), ("6", "R&amp;B"), ("7", "<b>Bold &amp; big</b>"),
        ("1", "Again"), ("8", '&lt;div class="'),
    ]  # fmt: skip
    tally = Tally()
    kept = [("1", "One"), ("nan", "nan"), ("null", "None"), ("6", "R&B"), ("7", "Bold & big"), ("1", "Again")]
    assert list(items(records, tally)) == kept
    assert tally.dropped == {"item without id": 3, "item without text": 3, "item text is HTML rubbish": 2}
    assert tally.repaired == {
        "item text with HTML entities decoded": 2,
        "item text with HTML tags removed": 1,
    }


@given(st.lists(st.tuples(st.none() | ANY_TEXT, st.none() | ANY_TEXT)))
def test_every_item_is_kept_or_counted(records: list[tuple[str | None, str | None]]) -> None:
    kept = list(items(records, tally := Tally()))
    assert len(kept) + tally.dropped.total() == len(records)
    assert all(item == item.strip() != "" and text != "" for item, text in kept)
    assert max(tally.repaired.values(), default=0) <= len(kept)
