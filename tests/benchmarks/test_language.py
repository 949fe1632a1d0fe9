"""A language model scoring a slate of 20, beside the paper's way: `make bench`. Compare within a run.

The paper's way: the whole prompt again for each candidate, eager, every word's logit at every place. Here: the history
once, the candidates packed behind it, two words' logits at one place each. A Llama of SmolLM2-135M's widths with random
weights, a fifteenth of it: two of its thirty layers and 3,277 of its 49,152 words, so that layers and head keep their
shares. In the test suite these run once each, as smoke tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from small_backbone import make_backbone
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from rbserve.core.requests import slate_request
from rbserve.core.types import Scores
from rbserve.data.columns import Ragged
from rbserve.exporters.language import write_graph
from rbserve.models.lm import ClickModel
from rbserve.models.prompts import Prompts
from rbserve.runtimes.language import LanguageScorer
from rbserve.runtimes.onnx import OnnxLanguageCall
from rbserve.runtimes.session import open_session
from rbserve.runtimes.torch_models import TorchLanguageCall
from rbserve.train.fitting.tensors import save_tensors
from rbserve.train.tasks.language import NO, YES, load, single_tokens
from rbserve.train.tasks.prompt_pieces import make_pieces

SLATE, HISTORY, ITEM_TOKENS = 20, 20, 9
SHAPE = {
    "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3,
    "num_hidden_layers": 2, "vocab_size": 3_277, "max_position_embeddings": 2048, "tie_word_embeddings": True,
}  # fmt: skip
HISTORIES, CANDIDATES = np.arange(HISTORY, dtype=np.int32), np.arange(30, 30 + SLATE, dtype=np.int32)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_backbone("llama", tmp_path_factory.mktemp("backbone") / "llama")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE)).save_pretrained(made)  # type: ignore[no-untyped-call]
    return made


@pytest.fixture(scope="module")
def model(folder: Path) -> ClickModel:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)  # type: ignore[no-untyped-call]
    yes, no = (single_tokens(tokenizer, ways, "llama") for ways in (YES, NO))
    return ClickModel(load(folder, [*yes, *no]), len(yes)).eval()


@pytest.fixture(scope="module")
def prompts(folder: Path, model: ClickModel) -> Prompts:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)  # type: ignore[no-untyped-call]
    made = make_pieces(tokenizer, model.language, limit=1024, yes=model.yes, shared=True)
    items = np.random.default_rng(0).integers(1, 500, size=100 * ITEM_TOKENS, dtype=np.int32)
    return Prompts(made, Ragged(items, np.arange(101, dtype=np.int64) * ITEM_TOKENS))


@pytest.fixture(scope="module")
def papers_way(folder: Path, model: ClickModel, prompts: Prompts) -> Any:
    whole: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)  # type: ignore[no-untyped-call]
    yes, no = (single_tokens(tokenizer, ways, "llama") for ways in (YES, NO))

    def score() -> Scores:
        scores = []
        for candidate in CANDIDATES.tolist():
            tokens = np.concatenate([prompts.prefix(HISTORIES), prompts.suffix(candidate)])
            with torch.inference_mode():
                chances = whole(input_ids=torch.from_numpy(tokens)[None]).logits[0, -1].softmax(-1)
            said, denied = float(chances[yes].sum()), float(chances[no].sum())
            scores.append(said / (said + denied))
        return np.array(scores, np.float32)

    return score


@pytest.mark.benchmark(group="language model, slate 20")
@pytest.mark.parametrize("way", ["paper", "torch-fp32", "onnx-fp32"])
def test_a_slate(
    way: str,
    benchmark: BenchmarkFixture,
    model: ClickModel,
    prompts: Prompts,
    papers_way: Any,
    tmp_path: Path,
) -> None:
    expected = papers_way()
    if way == "paper":
        found = benchmark(papers_way)
    else:
        call: Any = TorchLanguageCall(model)
        if way == "onnx-fp32":
            weights, graph = tmp_path / "model.safetensors", tmp_path / "model.onnx"
            save_tensors(weights, model.state_dict())
            write_graph(model, model.language.config, weights, graph, {})
            call = OnnxLanguageCall(open_session(graph, threads=1))
        found = benchmark(LanguageScorer(call, prompts).score, slate_request(HISTORIES, CANDIDATES))
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
