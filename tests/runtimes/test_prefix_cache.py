"""What is kept of users from request to request: found to the token, never too much, the same scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_backbone import make_backbone

from rbserve.core.errors import UsageError
from rbserve.core.options import with_options
from rbserve.core.requests import slate_request
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset
from rbserve.exporters.export import export
from rbserve.models.zoo import find_model
from rbserve.profilers.compare.figures import columns, point_record
from rbserve.profilers.compare.sections import sections
from rbserve.profilers.measure.harness import default_plan, profile
from rbserve.runs.plan import Plan
from rbserve.runs.roofline import Cost
from rbserve.runs.summary import summarise
from rbserve.runtimes.contents import artifact_prompts
from rbserve.runtimes.language import LanguageScorer, PrefixCache
from rbserve.runtimes.onnx import OnnxLanguageCall
from rbserve.runtimes.opening import open_scorer
from rbserve.runtimes.session import open_session
from rbserve.runtimes.torch import load_model
from rbserve.runtimes.torch_models import ProtocolScorer
from rbserve.train.fit import train
from rbserve.train.fitting.loop import Settings

Tokens = NDArray[np.int64]


def tokens(*numbers: int) -> Tokens:
    return np.array(numbers, np.int64)


def cache_of(some: Tokens) -> NDArray[np.float32]:
    """As many numbers as tokens, 4 bytes each."""
    return some.astype(np.float32)


def test_the_longest_beginning_is_found_to_the_token() -> None:
    kept = PrefixCache(1000, stride=2)
    known = tokens(1, 2, 3, 4, 5)
    kept.keep(known, cache_of(known))
    for asked, length in (
        (known, 5),
        (tokens(1, 2, 3, 4, 5, 6), 5),
        (tokens(1, 2, 3, 9, 9, 9), 3),
        (tokens(1, 2, 3), 3),
        (tokens(1, 9, 3, 4), 0),
        (tokens(), 0),
    ):
        found, cache = kept.longest(asked)
        assert found == length
        assert (cache is None) == (length == 0)


def test_the_least_recently_used_goes_first() -> None:
    kept = PrefixCache(limit=2 * 16, stride=2)
    one, two, three = (np.full(4, number, np.int64) for number in (1, 2, 3))
    for some in (one, two):
        kept.keep(some, cache_of(some))
    kept.longest(one)
    kept.keep(three, cache_of(three))
    assert [kept.longest(some)[0] for some in (one, two, three)] == [4, 0, 4]
    assert kept.bytes_kept == 32
    kept.keep(np.arange(100), cache_of(np.arange(100)))
    assert kept.longest(np.arange(100))[0] == 0, "larger than all there is room for"
    assert kept.bytes_kept == 32


@given(st.lists(st.lists(st.integers(0, 1), max_size=9), max_size=30), st.integers(0, 200))
def test_what_is_found_is_the_beginning_of_something_kept(prompts: Sequence[list[int]], limit: int) -> None:
    kept = PrefixCache(limit, stride=2)
    for prompt in prompts:
        asked = np.array(prompt, np.int64)
        found, cache = kept.longest(asked)
        assert found <= len(asked)
        if cache is not None:
            np.testing.assert_array_equal(cache[:found], asked[:found])
        kept.keep(asked, cache_of(asked))
        assert kept.bytes_kept <= limit
        if len(asked) >= 2 and 4 * len(asked) <= limit:
            assert kept.longest(asked)[0] == len(asked)


@pytest.fixture(scope="module")
def model(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    backbone = make_backbone("llama", tmp_path_factory.mktemp("backbone") / "llama")
    spec = find_model("zeroshot-smollm2-135m")
    spec = dataclasses.replace(spec, config=with_options(spec.config, {"backbone": str(backbone)}))
    made = train(spec, planted, tmp_path_factory.mktemp("asked") / "zeroshot", Settings())
    return export(made, planted, ["fp32"])


def scorer_of(model: Artifact, kept: PrefixCache | None) -> LanguageScorer:
    return LanguageScorer(
        OnnxLanguageCall(open_session(model.file("onnx/fp32.onnx"), threads=1)), artifact_prompts(model), kept
    )


def test_a_known_user_scores_the_same(model: Artifact, planted: Dataset) -> None:
    """A history that grew, one that lost its oldest item, another user in between."""
    kept = PrefixCache(1 << 24)
    warm, cold = scorer_of(model, kept), scorer_of(model, None)
    candidates = np.arange(15, dtype=np.int32)
    history = planted.ctr("test").histories[0]
    for asked in (history, history[:-1], history, history[1:], planted.ctr("test").histories[9], history):
        np.testing.assert_allclose(
            warm.score(slate_request(asked, candidates)),
            cold.score(slate_request(asked, candidates)),
            atol=1e-5,
            rtol=0,
        )
    assert 0.3 < kept.tokens_found / kept.tokens_asked < 1.0


def test_users_asked_at_once_get_their_own_scores(model: Artifact, planted: Dataset) -> None:
    warm, cold = scorer_of(model, PrefixCache(1 << 17)), scorer_of(model, None)
    histories = [planted.ctr("test").histories[row] for row in range(0, 60, 4)]
    candidates = np.arange(6, dtype=np.int32)
    expected = [cold.score(slate_request(history, candidates)) for history in histories]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            found = list(pool.map(lambda history: warm.score(slate_request(history, candidates)), histories))
            np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_the_papers_way_scores_the_same(model: Artifact, planted: Dataset) -> None:
    test = planted.ctr("test")
    candidates = np.arange(5, dtype=np.int32)
    papers = open_scorer(model, "torch-recbench")
    assert isinstance(papers, ProtocolScorer)
    assert load_model(model, "torch-recbench")
    for row in (0, 7):
        found = papers.score(slate_request(test.histories[row], candidates))
        ours = open_scorer(model, "onnx-fp32").score(slate_request(test.histories[row], candidates))
        np.testing.assert_allclose(found, ours, atol=1e-5, rtol=0)


def test_users_who_are_remembered_are_measured_beside_those_who_are_not(
    model: Artifact, planted: Dataset
) -> None:
    """In a profile they are a scope of their own, in a report a section and a column beside the others."""
    plan = Plan(1, 5, 5.0, [4], 1, "forward", seed=2024, test_users=5, warm=True)
    run = profile(model, planted, plan, ["onnx-fp32", "torch-recbench"])
    found = {(one.variant, one.scope): one for one in run.results}
    assert [*found] == [("onnx-fp32", "forward"), ("onnx-fp32", "warm"), ("torch-recbench", "forward")]
    cold, known = found["onnx-fp32", "forward"], found["onnx-fp32", "warm"]
    assert cold.warm_ms == known.latency_ms
    assert known.stages is not None
    assert {"user cache", "candidates"} <= known.stages.keys()
    assert "prefill" not in known.stages
    assert found["torch-recbench", "forward"].warm_ms is None

    forward, warm = sections([run])
    assert (forward.scope, warm.scope) == ("forward", "warm")
    assert point_record(forward.points[0])["warm_p50_ms"] == warm.points[0].p50_ms
    assert "warm p50 ms [95%]" in [figure.head("ctr") for figure in columns(forward.points, "page")]
    assert "warm p50 ms [95%]" not in [figure.head("ctr") for figure in columns(warm.points, "page")]
    for section in (forward, warm):
        assert "--scope forward --warm" in section.sources[0].command

    cost = Cost("onnx-fp32", 4, 1, 7, {"fp32": 9}, 1, 1, {"fp32": 2.0}, 4.0, {"MatMul": 1})
    cold, known, _ = summarise(msgspec.structs.replace(run, costs=[cost]))
    assert cold.cost is not None
    assert known.cost is None, "a call that remembers costs less than the one that was looked into"


def test_a_model_that_reads_no_prompt_remembers_nobody(trained: Artifact, planted: Dataset) -> None:
    with pytest.raises(UsageError, match="has nothing to remember"):
        profile(trained, planted, msgspec.structs.replace(default_plan(), warm=True))
