"""One rule for the text of an id: Python values, Arrow columns and DuckDB's SQL agree, whatever the type."""

from __future__ import annotations

import sys
import uuid
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rbserve.core.ids import EDGE, column_text, id_sql, id_text, lost_digits

TEXT = st.text(st.sampled_from("A7é日.-0 \t\n\xa0\u3000\u200b\ufeff\0'\"\\")) | st.text()
NUMERIC = st.from_regex(r"\A-?[0-9]{1,4}(\.[0-9]{1,3})?\Z")
KINDS = (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()),
         pa.binary(), pa.large_binary(), pa.binary_view())  # fmt: skip


@pytest.fixture(scope="module")
def database() -> Any:
    with duckdb.connect() as connection:
        yield connection


def _by_sql(database: Any, texts: list[str | None]) -> list[str]:
    rows = database.execute(
        f"select coalesce({id_sql('text')}, '') from (select unnest(?::varchar[]) as text)", [texts]
    )
    return [text for (text,) in rows.fetchall()]


def _by_column(database: Any, column: pa.Array) -> list[str]:
    return _by_sql(database, column_text(column).to_pylist())


@given(texts=st.lists(TEXT | NUMERIC, min_size=1))
@example(
    texts=[
        "A00  ",
        "A00\xa0",
        "\tA00\t",
        "1193.0",
        "-7.00",
        "-0.0",
        "007",
        "007.0",
        "1.0.0",
        "+1.0",
        "",
        "\0",
    ]
)
def test_python_arrow_and_sql_agree_on_texts_and_a_text_is_its_own_text(
    database: Any, texts: list[str]
) -> None:
    expected = [id_text(text) for text in texts]
    assert _by_column(database, pa.array(texts, pa.string())) == expected
    assert _by_sql(database, texts) == expected
    assert [id_text(text) for text in expected] == expected


@given(value=st.integers(-(2**53) + 1, 2**53 - 1))
@example(value=0)
@example(value=-1193)
def test_a_whole_number_has_one_text_in_every_type_and_as_text(database: Any, value: int) -> None:
    whole = str(value)
    columns = [pa.array([value]), pa.array([float(value)]), pa.array([Decimal(value)], pa.decimal128(38, 2)),
               pa.array([whole]), pa.array([f"{whole}.0"]), pa.array([f" {whole}.00 ".encode()])]  # fmt: skip
    assert {_by_column(database, column)[0] for column in columns} == {whole}
    assert {id_text(one) for one in (value, float(value), whole, f"{whole}.0", Decimal(f"{whole}.0"))} == {
        whole
    }
    assert set(_by_sql(database, [whole, f"{whole}.0", f"\t{whole}.000"])) == {whole}


@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]))), kind=st.sampled_from(KINDS))
def test_text_is_the_same_id_in_every_type_of_column(
    database: Any, texts: list[str], kind: pa.DataType
) -> None:
    is_binary = "binary" in str(kind)
    column = pa.array(texts, pa.string())
    held = pa.array([text.encode() for text in texts], kind) if is_binary else column.cast(kind)
    assert _by_column(database, held) == [id_text(text) for text in texts]


def test_white_space_is_what_python_takes_for_it_and_signs_without_a_width() -> None:
    spaces = {chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace()}
    assert set(EDGE) == spaces | {"\0", "\u200b", "\u2060", "\ufeff"}


def test_what_is_no_id_is_empty(database: Any) -> None:
    assert _by_column(database, pa.array([None, float("nan"), 2.5])) == ["", "", "2.5"]
    assert _by_column(database, pa.array([None, None])) == ["", ""]
    assert [id_text(value) for value in (None, float("nan"), "", " \t", b"")] == [""] * 5


def test_other_types_have_the_text_that_people_write(database: Any) -> None:
    one = uuid.UUID(int=0x1234)
    assert (
        _by_column(database, pa.array([True, False])) == ["true", "false"] == [id_text(True), id_text(False)]
    )
    assert (
        _by_column(database, pa.array([b"\xc3\xa9", b"\xff\x01"]))
        == ["é", "ff01"]
        == [id_text(b"\xc3\xa9"), id_text(b"\xff\x01")]
    )
    assert _by_column(database, pa.array([one.bytes], pa.uuid())) == [str(one)] == [id_text(one)]
    assert _by_column(database, pa.array([2.5, 0.1], pa.float32())) == ["2.5", "0.1"]
    assert _by_column(database, pa.array([date(2024, 5, 1)])) == ["2024-05-01"] == [id_text(date(2024, 5, 1))]
    assert _by_column(database, pa.array([time(1, 2, 3)])) == ["01:02:03"]
    assert _by_column(database, pa.array([timedelta(seconds=2)])) == ["2000000"]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_a_moment_has_one_text_in_every_unit_and_zone(database: Any, unit: str, zone: str) -> None:
    moment = datetime(2024, 5, 1, 12, 30)
    assert _by_column(database, pa.array([moment], pa.timestamp(unit))) == ["2024-05-01 12:30:00"]
    assert _by_column(database, pa.array([moment.replace(tzinfo=UTC)], pa.timestamp(unit, zone))) == [
        "2024-05-01 12:30:00Z"
    ]
    fraction = moment.replace(microsecond=120_000)
    expected = "2024-05-01 12:30:00" if unit == "s" else "2024-05-01 12:30:00.12"
    assert _by_column(database, pa.array([fraction]).cast(pa.timestamp(unit), safe=False)) == [expected]


@pytest.mark.parametrize("values", [[[1]], [{"a": 1}]])
def test_lists_and_structs_are_no_values(values: list[Any]) -> None:
    with pytest.raises(ValueError, match="not one value a row"):
        column_text(pa.array(values))


def test_a_float_that_lost_digits_is_noticed() -> None:
    assert lost_digits(pa.array([1.0, None, 1.2e18])) == "1.2e+18"
    assert lost_digits(pa.array([1.0, float("nan"), float("inf"), 2.0**53 - 1])) is None
    assert lost_digits(pa.array([1 << 60])) is None
