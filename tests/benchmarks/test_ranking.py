"""Ranking the catalogue at the paper's sizes, beside the paper's way and the machine's limits: `make bench`.

Compare within a group, not absolute times. Weights are random: they change no time, and rankings all the same have
to agree. In the test suite these run once each, as smoke tests.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture
from reference_beam import dict_trie, reference_search

from rbserve.core.types import Items, Ranker
from rbserve.data.columns import Ragged
from rbserve.data.trie import build_trie
from rbserve.exporters.sequential import write_graphs
from rbserve.models.sasrec import SasRec, SidSasRec, build
from rbserve.models.zoo import find_model
from rbserve.runtimes.evaluate import rank_rows
from rbserve.runtimes.onnx import OnnxItemScores, OnnxStepper
from rbserve.runtimes.ranking import GeneratingRanker, ScoringRanker
from rbserve.runtimes.session import open_session
from rbserve.runtimes.torch_models import TorchItemScores, TorchStepper

ITEMS, HISTORY, K = 19_220, 19, 10
SEQUENCES = 5_000
MILLION = 1_000_000

pytestmark = pytest.mark.usefixtures("one_thread")


# ---- SID-SASRec-CBS, and the paper's way: every beam's whole sequence encoded anew at every level ----

LARGE = pytest.mark.skipif("not config.getoption('--benchmark-enable')", reason="half a gigabyte: make bench")


@pytest.fixture(scope="module")
def codes() -> NDArray[np.int32]:
    """As many distinct paths as MicroLens has items; four codes are far more than tell them apart."""
    drawn = np.random.default_rng(0).integers(256, size=(ITEMS, 4), dtype=np.int32)
    return np.unique(drawn, axis=0)


@pytest.fixture(scope="module", params=["sid-sasrec-6l-cbs", pytest.param("sid-sasrec-12l-cbs", marks=LARGE)])
def generating(
    codes: NDArray[np.int32], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> dict[str, Any]:
    spec = find_model(request.param)
    torch.manual_seed(0)
    model = build(spec.config, len(codes)).eval()
    assert isinstance(model, SidSasRec)
    tokens = codes + np.arange(4, dtype=np.int32) * 256
    sids: Any = SimpleNamespace(tokens=tokens, trie=build_trie(codes))
    graphs = write_graphs(model, tmp_path_factory.mktemp("sid"), {})
    history = np.random.default_rng(1).integers(len(codes), size=HISTORY).astype(np.int32)
    prompt = torch.from_numpy(tokens[history].ravel()).long()
    onnx = GeneratingRanker(
        OnnxStepper(*(open_session(path, threads=1) for path in graphs)), sids, spec.config
    )
    eager = GeneratingRanker(TorchStepper(model), sids, spec.config)
    width, tree = spec.config.width, dict_trie(codes)
    return {
        "row": spec.name,
        "recbench": lambda: reference_search(model, prompt, codes, width, tree)[0][:K],
        "torch-fp32": lambda: eager.top_k(history, K)[0].tolist(),
        "onnx-fp32": lambda: onnx.top_k(history, K)[0].tolist(),
    }


@torch.inference_mode()
@pytest.mark.parametrize("way", ["recbench", "torch-fp32", "onnx-fp32"])
def test_conditional_beam_search(benchmark: BenchmarkFixture, generating: dict[str, Any], way: str) -> None:
    benchmark.group = f"{generating['row']}, {HISTORY} items of history, 20 beams, one thread"
    found = benchmark(generating[way])
    assert found == generating["recbench"](), "the same ten items in the same order"


# ---- SASRec-3L over the whole catalogue ----


@pytest.fixture(scope="module")
def scoring(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ranker]:
    model = _untrained(ITEMS)
    onnx = OnnxItemScores(
        *(
            open_session(path, threads=1)
            for path in write_graphs(model, tmp_path_factory.mktemp("sasrec"), {})
        )
    )
    return {
        "torch-fp32": ScoringRanker(TorchItemScores(model), HISTORY),
        "onnx-fp32": ScoringRanker(onnx, HISTORY),
    }


@pytest.mark.parametrize("variant", ["torch-fp32", "onnx-fp32"])
def test_a_test_set_against_the_whole_catalogue(
    benchmark: BenchmarkFixture, scoring: dict[str, Ranker], variant: str
) -> None:
    """`share of peak` counts the products of encoder and catalogue, of the fastest fp32 product found here."""
    benchmark.group = f"sasrec-3l, {SEQUENCES} sequences x {ITEMS} items, one thread"
    histories = _histories(SEQUENCES, ITEMS)
    benchmark.pedantic(rank_rows, (scoring[variant], histories, K), rounds=3 if benchmark.enabled else 1)
    if benchmark.enabled:
        rate = _products(histories, ITEMS) / benchmark.stats.stats.min
        benchmark.extra_info["GFLOP/s"] = round(rate / 1e9, 1)
        benchmark.extra_info["share of peak"] = round(rate / _matrix_peak(), 3)


@LARGE
def test_one_user_against_a_million_items(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """The limit is reading 256 MB of item vectors once."""
    benchmark.group = "sasrec-3l, one user x 1,000,000 items, one thread"
    graphs = write_graphs(_untrained(MILLION), tmp_path, {})
    table = np.random.default_rng(0).random((MILLION, 64), np.float32)
    before = _resident_mb()
    ranker = ScoringRanker(OnnxItemScores(*(open_session(path, threads=1) for path in graphs)), HISTORY)
    history = np.arange(HISTORY, dtype=np.int32)
    ranker.top_k(history, K)
    benchmark.extra_info["MB more resident"] = round(_resident_mb() - before)
    benchmark.extra_info["MB of item vectors"] = round(table.nbytes / 2**20)
    started = time.perf_counter()
    for _ in range(5):
        table.sum()
    benchmark.extra_info["ms to read them once"] = round((time.perf_counter() - started) / 5 * 1e3, 1)
    benchmark(ranker.top_k, history, K)


def _untrained(items: int) -> SasRec:
    torch.manual_seed(0)
    model = build(find_model("sasrec-3l").config, items).eval()
    assert isinstance(model, SasRec)
    return model


def _histories(rows: int, items: int) -> Ragged:
    """Lengths like those of MicroLens: five items on average."""
    rng = np.random.default_rng(0)
    lengths = np.minimum(3 + rng.geometric(0.4, rows), HISTORY)
    values: Items = rng.integers(items, size=int(lengths.sum())).astype(np.int32)
    return Ragged(values, np.concatenate(([0], np.cumsum(lengths))))


def _products(histories: Ragged, items: int) -> float:
    """Floating-point operations of the linear layers of SASRec-3L and of the product with the catalogue."""
    positions = int(histories.lengths.sum()) + len(histories)
    return 2.0 * (positions * 3 * 12 * 64**2 + len(histories) * items * 64)


def _matrix_peak() -> float:
    """FLOP/s of a 1024 x 1024 x 1024 fp32 product on one thread, the best of torch's."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    best = np.inf
    for _ in range(10):
        started = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - started)
    return 2 * 1024**3 / best


def _resident_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return float("nan")
