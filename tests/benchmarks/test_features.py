"""What the counted features of a request take, by themselves: `make bench` shows the time of a call.

Compare groups, not absolute times. In the test suite these run once each, as smoke tests.
"""

from __future__ import annotations

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from rbserve.features.counted import COUNTS, SIMILARITIES, CountedTables

ITEMS, PARTNERS, WIDTH, HISTORY = 10_000, 100, 384, 10


@pytest.fixture(scope="module")
def files() -> dict[str, np.ndarray]:
    """Tables of ten thousand items, each with a hundred partners and a vector as long as MiniLM's."""
    rng = np.random.default_rng(0)
    keys = np.unique(rng.integers(0, ITEMS * ITEMS, ITEMS * PARTNERS))
    vectors = rng.standard_normal((ITEMS, WIDTH), np.float32)
    return {
        **{name: rng.integers(0, 99, ITEMS, np.int32) for name in ("likes", "shows", "in_histories")},
        "pairs.keys": keys,
        **{name: rng.integers(0, 9, len(keys), np.int32) for name in ("pairs.together", "pairs.liked")},
        "vectors": (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).ravel(),
    }


@pytest.mark.parametrize("slate", [1, 100])
@pytest.mark.parametrize("names", [COUNTS, COUNTS + SIMILARITIES], ids=["counts", "similarities"])
def test_counted_features(
    benchmark: BenchmarkFixture, files: dict[str, np.ndarray], names: tuple[str, ...], slate: int
) -> None:
    benchmark.group = f"counted features of {slate} candidates for a history of {HISTORY}"
    tables, rng = CountedTables(files, chosen=names), np.random.default_rng(1)
    history, candidates = (rng.integers(0, ITEMS, size, np.int32) for size in (HISTORY, slate))
    features = benchmark(tables.features, history, candidates)
    assert features.shape == (slate, len(names))
