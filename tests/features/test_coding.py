"""Values of fields as numbers and codes: columns and single values alike, vocabularies held against counters."""

from __future__ import annotations

import datetime
import math
from collections import Counter
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rbserve.core.fields import FIRST, MISSING, UNSEEN, WORDS, FieldSpec
from rbserve.features.coding import MOST_WIDTH, FieldCoder, ValueCounts, text_hash

BRAND = FieldSpec("brand", "item", "category")
TAGS = FieldSpec("tags", "item", "multi")
PRICE = FieldSpec("price", "item", "number")
odd_texts = st.sampled_from(["", " ", "3", "3.0", "03", "1e3", "1e300", "inf", "NaN", "nan", "-2.50", "+4", ".5", "5.",
                             "1_000", "1,000", "0x1f", "true", "False", "a", "a|b", "|", '["a", "b|c", 3]', "[a]",
                             "[1, [2]]", "Ünïcode", "  padded ", "\ufeff7", "-0", "1e-50"])  # fmt: skip
texts = st.one_of(odd_texts, st.text(max_size=8), st.floats().map(str), st.integers().map(str))


def coder_of(spec: FieldSpec, values: list[object], most: int = 1000) -> FieldCoder:
    counts = ValueCounts(spec, most)
    counts.add(pa.array(values))
    return counts.coder()


@given(
    st.lists(st.none() | texts, max_size=12),
    st.sampled_from([BRAND, TAGS, FieldSpec("w", "item", "multi", separator=WORDS)]),
)
def test_a_column_of_categories_has_the_codes_of_its_values(
    values: list[str | None], spec: FieldSpec
) -> None:
    coder = coder_of(spec, [*values[::2], "a"])
    column = coder.column(pa.array(values, pa.string()))
    for value, codes in zip(values, column.reshape(len(values), coder.spec.width), strict=True):
        assert codes.tolist() == coder.value(value).tolist()


@given(st.lists(st.none() | texts, max_size=12))
@example(["1", "inf"])
@example([" 5", "x"])
def test_a_column_of_numbers_has_the_numbers_of_its_values(values: list[str | None]) -> None:
    coder = FieldCoder(PRICE)
    column = coder.column(pa.array(values, pa.string()))
    malformed = 0
    for value, number in zip(values, column, strict=True):
        try:
            assert np.array_equal(coder.value(value)[0], number, equal_nan=True)
        except ValueError:
            malformed += 1
            assert math.isnan(number)
    assert coder.counts.malformed == malformed
    assert coder.counts.missing == np.isnan(column).sum()


def test_numbers_of_every_column_type_are_those_of_python() -> None:
    coder = FieldCoder(PRICE)
    for column in (
        pa.array([1, None, 3], pa.int8()), pa.array([1.5, math.nan, 1e10]), pa.array([0.1, 2, 3], pa.float32()),
        pa.array([Decimal("1.50"), None, Decimal("2.25")]), pa.array([True, False, None]),
        pa.array(["1.5", "", None]), pa.array(["7", "8", "7"]).dictionary_encode(),
    ):  # fmt: skip
        numbers = coder.column(column)
        expected = [math.nan if value in (None, "") else float(value) for value in column.to_pylist()]
        assert np.array_equal(numbers, np.array(expected, np.float32), equal_nan=True)
    assert coder.counts.malformed == 0


def test_a_text_that_is_no_number_is_missing_and_counted_with_an_example() -> None:
    coder = FieldCoder(PRICE)
    numbers = coder.column(pa.array(["1", "cheap", None, "", "9e99"]))
    assert np.array_equal(numbers, np.array([1, *[np.nan] * 4], np.float32), equal_nan=True)
    assert (coder.counts.malformed, coder.counts.example, coder.counts.missing) == (2, "cheap", 4)
    with pytest.raises(ValueError, match="price takes a number, not 'cheap'"):
        coder.value("cheap")


def test_more_frequent_values_have_lower_codes_and_ties_are_ordered_by_text() -> None:
    values = ["b", "c", "a", "c", None, "", "b", "d", " c "]
    coder = coder_of(BRAND, values)  # type: ignore[arg-type]
    counted = Counter(text.strip() for text in values if text and text.strip())
    ordered = sorted(counted, key=lambda text: (-counted[text], text))
    assert list(coder.values) == ordered == ["c", "b", "a", "d"]
    assert coder.spec.size == FIRST + 4
    assert coder.column(pa.array(["c", "d", "new", None, ""])).tolist() == [
        FIRST,
        FIRST + 3,
        UNSEEN,
        MISSING,
        MISSING,
    ]


def test_one_value_written_in_several_ways_has_one_code() -> None:
    coder = coder_of(BRAND, [3, 3, 4])
    assert list(coder.values) == ["3", "4"]
    columns = [
        pa.array([3.0]),
        pa.array(["3"]),
        pa.array(["3.0"]),
        pa.array([3], pa.int64()),
        pa.array([" 3 "]),
    ]
    assert {int(coder.column(column)[0]) for column in columns} == {FIRST}
    assert {int(coder.value(value)[0]) for value in (3, 3.0, "3", "3.0", Decimal("3"))} == {FIRST}
    assert coder.value(math.nan).tolist() == [MISSING]
    day = coder_of(BRAND, [datetime.date(2024, 5, 1)])
    assert day.value("2024-05-01").tolist() == [FIRST]


def test_several_categories_are_lists_or_texts_with_a_separator() -> None:
    lists = [["red", "new"], ["red"], None, [], ["old", None, ""]]
    coder = coder_of(TAGS, lists)  # type: ignore[arg-type]
    assert (list(coder.values), coder.spec.width) == (["red", "new", "old"], 2)
    expected = [[2, 3], [2, 0], [0, 0], [0, 0], [4, 0]]
    assert coder.column(pa.array(lists)).tolist() == expected
    assert coder.column(pa.array(lists).cast(pa.large_list(pa.string()))).tolist() == expected
    assert coder.column(pa.array(lists).slice(1)).tolist() == expected[1:]
    assert coder.column(pa.array(["red|new", " red ", None, "", "old||"])).tolist() == expected
    written = pa.array(['["red", "new"]', '["red"]', None, "[]", '["old", null, ""]'])
    assert coder.column(written).tolist() == expected
    assert coder.value(["new", "blue"]).tolist() == [3, UNSEEN]
    semicolons = coder_of(FieldSpec("tags", "item", "multi", separator=";"), ["a;b|c"])
    assert list(semicolons.values) == ["a", "b|c"]


def test_categories_beyond_the_width_are_cut_off_and_counted() -> None:
    rows = [["a", "b"]] * 199 + [[f"t{place}" for place in range(40)]]
    coder = coder_of(TAGS, rows)  # type: ignore[arg-type]
    assert coder.spec.width == 2  # holds 99% of the rows whole
    coder.column(pa.array(rows))
    assert coder.counts.cut == 38
    assert coder_of(TAGS, rows[-1:]).spec.width == MOST_WIDTH  # type: ignore[arg-type]


def test_the_words_of_a_text_are_its_categories() -> None:
    spec = FieldSpec("about", "item", "multi", separator=WORDS)
    coder = coder_of(spec, ["Red shoes, RED!", "blue shoes"])
    assert list(coder.values) == ["red", "shoes", "blue"]
    assert coder.value("Shoes (blue)").tolist() == [3, 4, MISSING]


def test_above_a_number_of_values_codes_are_hashes_that_are_the_same_in_every_process() -> None:
    coder = coder_of(BRAND, [f"value {number}" for number in range(101)], most=100)
    assert coder.spec.hashed
    assert (coder.spec.size, coder.values) == (FIRST + 100, [])
    assert not coder_of(BRAND, [f"value {number}" for number in range(100)], most=100).spec.hashed
    codes = coder.column(pa.array([*(f"value {number}" for number in range(1000)), None, "3", "3.0"]))
    assert codes[-3] == MISSING
    assert codes[-2] == codes[-1]
    assert codes[:1000].min() >= FIRST
    assert codes.max() < coder.spec.size
    assert len(np.unique(codes)) > 90
    assert text_hash("Ünïcode") == 0x28A278282E944EA5  # b2sum -l 64, read from its end


@pytest.mark.parametrize(
    ("spec", "value"),
    [(BRAND, ["a"]), (BRAND, {"a": 1}), (PRICE, [1]), (TAGS, {"a": 1}), (TAGS, [["a"]])],
)
def test_a_value_of_another_form_is_refused_with_the_name_of_the_field(
    spec: FieldSpec, value: object
) -> None:
    with pytest.raises(ValueError, match=f"{spec.name} takes"):
        coder_of(spec, ["a"]).value(value)


@pytest.mark.parametrize("spec", [BRAND, PRICE])
def test_a_column_of_lists_is_refused_for_single_values(spec: FieldSpec) -> None:
    with pytest.raises(ValueError, match="not one value a row"):
        coder_of(spec, ["1"]).column(pa.array([["a"]]))
    with pytest.raises(ValueError, match="not one value a row"):
        coder_of(TAGS, ["1"]).column(pa.array([{"a": 1}]))


def test_counting_many_values_holds_no_more_than_the_limit(tmp_path: Path) -> None:
    counts = ValueCounts(BRAND, 50)
    for begin in range(0, 1000, 20):
        counts.add(pa.array([f"v{number}" for number in range(begin, begin + 20)]))
        assert len(counts._counts) <= 50
    assert counts.coder().spec.hashed
