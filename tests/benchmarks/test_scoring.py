"""The hot path of the 1000-1000-1000 DNN in every variant, in one run: `make bench`.

Compare groups, not absolute times. In the test suite these run once each, as smoke tests.
"""

from __future__ import annotations

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from rbserve.core.requests import slate_request
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset
from rbserve.exporters.export import export
from rbserve.models.zoo import find_model
from rbserve.runtimes.opening import open_scorer
from rbserve.train.fit import train
from rbserve.train.fitting.loop import Settings


@pytest.fixture(scope="module")
def full_size(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The DNN at the paper's size. Weights do not change its speed, so one epoch is enough."""
    artifact = train(find_model("dnn"), planted, tmp_path_factory.mktemp("full") / "dnn", Settings(epochs=1))
    return export(artifact, planted)


@pytest.mark.parametrize("slate", [1, 100, 1000])
@pytest.mark.parametrize("variant", ["torch-fp32", "onnx-fp32", "onnx-int8"])
def test_score(
    benchmark: BenchmarkFixture, full_size: Artifact, planted: Dataset, variant: str, slate: int
) -> None:
    benchmark.group = f"dnn 1000-1000-1000, slate {slate}, one thread"
    scorer = open_scorer(full_size, variant, threads=1)
    histories = planted.ctr("test").take(np.arange(64)).histories
    candidates = np.random.default_rng(0).integers(len(planted.items), size=(64, slate), dtype=np.int32)
    turn = iter(range(10**9))

    def call() -> None:
        row = next(turn) % 64
        scorer.score(slate_request(histories[row], candidates[row]))

    benchmark(call)
