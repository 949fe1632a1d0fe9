"""Metrics of the user's own: found by module:function, called with labels, scores and users, refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from artificial import measurement, result

from rbserve.core.errors import RbserveError, UsageError
from rbserve.profilers.compare.figures import columns
from rbserve.profilers.compare.points import Point
from rbserve.stats.bootstrap import draws_interval, gauc_draws
from rbserve.stats.own_metrics import (
    RESAMPLES,
    compute_own,
    load_metrics,
    own_intervals,
    own_metric,
    require_pairs,
)

ROWS = (np.array([1, 0, 1]), np.array([0.5, 0.25, 0.75], np.float32), np.array([7, 7, 8]))
MODULE = """
import numpy as np
PRICE = 3
def revenue(labels, scores, users):
    return float((labels * scores).sum()) * len(set(users.tolist()))
def undefined(labels, scores, users):
    return np.float64("nan")
def failing(labels, scores, users):
    raise KeyError("gone")
def grouped(labels, scores, users):
    from rbserve.stats.pairwise import gauc
    return gauc(labels, scores, users)
def words(labels, scores, users):
    return "high"
def truth(labels, scores, users):
    return True
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop_metrics.py").write_text(MODULE)
    (tmp_path / "broken_metrics.py").write_text("import nothing_of_this_name")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_metric_is_called_with_labels_scores_and_users() -> None:
    own = load_metrics(["shop_metrics:revenue", "shop_metrics:undefined"])
    assert compute_own(own, ROWS) == {"shop_metrics:revenue": 2.5, "shop_metrics:undefined": None}


def test_resamples_are_those_of_the_metrics_that_have_their_own(rng: np.random.Generator) -> None:
    """An oracle: GAUC as a function of the user's own is drawn as GAUC is, whose weights count a user's copies."""
    users = rng.integers(0, 40, 300).astype(np.int32)
    rows = rng.integers(0, 2, 300), rng.random(300).astype(np.float32), users
    metric = own_metric("shop_metrics:grouped")
    assert metric.draws
    np.testing.assert_allclose(metric.draws(*rows), gauc_draws(*rows, resamples=RESAMPLES))
    interval = draws_interval(gauc_draws(*rows, resamples=RESAMPLES))
    assert own_intervals({"grouped": metric}, rows)["grouped"] == pytest.approx(interval)


def test_an_interval_is_left_out_where_it_is_undefined_or_would_take_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = load_metrics(["shop_metrics:revenue", "shop_metrics:undefined"])
    assert own_intervals(own, ROWS).keys() == {"shop_metrics:revenue"}
    monkeypatch.setattr("rbserve.stats.own_metrics.MOST_ROWS", 2)
    assert own_intervals(own, ROWS) == {}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("revenue", "revenue names no metric of a Python module"),
        ("no_such_module:revenue", "there is no Python module no_such_module"),
        ("shop_metrics:gain", "the Python module shop_metrics has no gain"),
        ("shop_metrics:PRICE", "shop_metrics:PRICE is a int, which is no metric"),
        ("broken_metrics:any", "importing broken_metrics failed: ModuleNotFoundError"),
    ],
)
def test_a_name_of_no_metric_is_one_line(name: str, message: str) -> None:
    with pytest.raises(RbserveError, match=message) as raised:
        load_metrics([name])
    assert "\n" not in raised.value.message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("failing", "the metric shop_metrics:failing failed: KeyError: 'gone'"),
        ("words", "the metric shop_metrics:words returned a str, which is no number"),
        ("truth", "the metric shop_metrics:truth returned a bool, which is no number"),
    ],
)
def test_a_metric_that_gives_no_number_is_one_line(name: str, message: str) -> None:
    own = load_metrics([f"shop_metrics:{name}"])
    with pytest.raises(RbserveError, match=message):
        compute_own(own, ROWS)


def test_models_that_rank_the_catalogue_take_no_metric_of_pairs() -> None:
    require_pairs([], ranks=True)
    require_pairs(["shop_metrics:revenue"], ranks=False)
    with pytest.raises(UsageError, match="ranks the catalogue"):
        require_pairs(["shop_metrics:revenue"], ranks=True)


def test_tables_show_the_metrics_of_the_runs_that_have_them() -> None:
    results = [result("onnx-fp32", 1, 0.1, 0.7), result("onnx-int8", 1, 0.1, 0.7)]
    own = {"onnx-fp32": {"shop:revenue": 2.5}}
    intervals = {"onnx-fp32": {"shop:revenue": (2.0, 3.0)}}
    run = measurement("dnn", results, own_metrics=own, own_intervals=intervals)
    points = [Point("dnn", run, each) for each in results]
    for place in ("profile", "accuracy"):
        (figure,) = (figure for figure in columns(points, place) if figure.key == "shop:revenue")
        assert [figure.get(point) for point in points] == [2.5, None]
        assert figure.cell(points[0]) == "2.5000 [2.0000, 3.0000]"
    plain = Point("dnn", measurement("dnn", results), results[0])
    assert "shop:revenue" not in {figure.key for figure in columns([plain], "profile")}
