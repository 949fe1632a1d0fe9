"""Counts that depend on the time of a row: profile, parity and load take test rows as of theirs, as training does."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from field_dataset import train_with_fields
from small_dataset import build

from rbserve.core.fields import NUMBERS, TIME, FieldSpec, Layout
from rbserve.core.requests import row_request, slate_request
from rbserve.exporters.export import export
from rbserve.features.counted import CountedTables
from rbserve.features.maker import FeatureMaker
from rbserve.features.opening import open_maker
from rbserve.profilers.measure.test_rows import test_split as rows_for_test
from rbserve.profilers.timing.requests import bodies, draw
from rbserve.server.scoring.features import FeatureError
from rbserve.server.scoring.request_fields import RequestFields
from rbserve.train.counting import counted_features
from rbserve.train.datasets import synthetic
from rbserve.train.protocol.options import Protocol
from rbserve.train.protocol.tally import Tally

FILES = {
    **{name: np.ones(2, np.int32) for name in ("likes", "shows", "in_histories")},
    **{f"pairs.{name}": np.empty(0, np.int64) for name in ("keys", "together", "liked")},
    "first": np.array([10, 20]), "last_like": np.array([10, 20]),
}  # fmt: skip


def test_test_rows_are_counted_as_of_their_times(tmp_path: Path) -> None:
    tally = Tally()
    events, items = synthetic.read(
        synthetic.Planted(users=150, items=40, topics=4, events_per_user=30), tally.dropped
    )
    dataset = build(tmp_path / "data", "synthetic", events, items, Protocol(split="time"), tally)
    model = train_with_fields("dnn", dataset, tmp_path / "dnn", "likes,age,recency", epochs=1)
    rows, counted, maker = rows_for_test(model, dataset), counted_features(dataset, None), open_maker(model)
    columns = [counted.manifest.names.index(spec.name) for spec in maker.layout.counted]
    assert len(rows) > 20
    exported = export(model, dataset, precisions=["fp32"])
    times = dataset.column("ctr/test", "time")
    assert rows.extras[TIME].tolist() == times.tolist()
    assert {check.request[TIME].item() for check in exported.checks("onnx-fp32").checks} <= {*times.tolist()}
    drawn = draw(np.random.default_rng(0), dataset.ctr("test"), 3, len(dataset.items))
    sent = [msgspec.json.decode(body)["time"] for body in bodies(drawn, dataset.items, 3, "dnn", timed=True)]
    assert len({*sent}) > 1
    assert sent == drawn.extras[TIME].ravel().tolist()
    for row in range(len(rows)):
        request = row_request(rows.histories[row], rows.candidates[row : row + 1], rows.extras, row, row + 1)
        expected = counted.features("test")[row : row + 1, columns]
        np.testing.assert_array_equal(maker.tensors(request)[NUMBERS], expected)


def test_the_time_of_a_request_is_that_of_its_counts() -> None:
    layout = Layout((FieldSpec("age", "counted", "number"),))
    fields = RequestFields(layout, {})
    assert fields.reads_time
    assert fields.read({}, 1_700_000_000, 3)[TIME].tolist() == [1_700_000_000]
    with pytest.raises(FeatureError, match="more than 64 bits"):
        fields.read({}, 1 << 70, 3)
    tables = CountedTables(FILES, end=100, chosen=["age"])
    ages = FeatureMaker(layout, {}, tables)
    request = slate_request(np.array([0], np.int32), np.array([1], np.int32))
    assert ages.tensors({**request, **fields.read({}, 50, 1)})[NUMBERS].tolist() == [[30]]
    assert ages.tensors(request)[NUMBERS].tolist() == [[80]]
