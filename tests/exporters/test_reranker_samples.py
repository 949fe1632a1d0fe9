"""MiniLM on every title of MicroLens, where both are there: neither is part of this repository.

RBSERVE_RAW names the folder of the samples, else it is `shared/data` beside the repository. The model is that of the
asset minilm-l6, once it has been fetched.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as tf

from rbserve.core.adoption import AdoptOptions
from rbserve.core.files import cache
from rbserve.data.request_set import ColumnRecord
from rbserve.exporters.adopt.reranker import convert
from rbserve.runtimes.reranker import BiEncoder, TokenGraph, open_tokenizer
from rbserve.runtimes.session import open_session
from rbserve.runtimes.text_tokens import TextTokenizer

SAMPLES = Path(os.environ.get("RBSERVE_RAW") or Path(__file__).parents[2] / ".." / "shared" / "data")
TITLES = 19_220
COLUMNS = {
    "query": ColumnRecord("str", "request", None, 0),
    "document": ColumnRecord("str", "candidate", None, 1),
}


@pytest.fixture(scope="module")
def titles() -> list[str]:
    """Every title of MicroLens."""
    file = SAMPLES / "microlens" / "MicroLens-50k_titles.csv"
    if not file.is_file():
        pytest.skip(f"no sample at {file}: RBSERVE_RAW names the folder of the samples")
    with file.open(newline="") as lines:
        return [row["title"] for row in csv.DictReader(lines)]


@pytest.fixture(scope="module")
def model() -> Path:
    """The directory of MiniLM."""
    folder = cache() / "minilm-l6"
    if not (folder / "model.safetensors").is_file():
        pytest.skip(f"no MiniLM at {folder}: a training with its vectors fetches it")
    return folder


@pytest.fixture(scope="module")
def converted(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of MiniLM's graph and tokenizer."""
    folder = tmp_path_factory.mktemp("minilm")
    convert(model, COLUMNS, AdoptOptions(), folder)
    return folder


def test_every_title_has_the_tokens_that_transformers_makes(
    titles: list[str], model: Path, converted: Path
) -> None:
    assert len(titles) == TITLES
    ours = TextTokenizer(open_tokenizer(converted / "tokenizer.json"))
    theirs = tf.AutoTokenizer.from_pretrained(model)
    long_query = " ; ".join(titles[:40])
    for queries, step in (([], 1), ([titles[0]], 1), ([long_query], 20)):
        groups = [(*queries, title) for title in titles[::step]]
        expected = theirs(*map(list, zip(*groups, strict=True)), truncation=True)
        tokens = ours.encode(groups)
        assert [text.ids for text in tokens] == expected["input_ids"]
        assert [text.types for text in tokens] == expected["token_type_ids"]
    assert max(map(len, tokens)) == theirs.model_max_length == len(tokens[0]), "the long query was not cut"


def test_titles_score_as_in_transformers(titles: list[str], model: Path, converted: Path) -> None:
    graph = TokenGraph(open_session(converted / "fp32.onnx", 1), open_tokenizer(converted / "tokenizer.json"))
    documents = titles[:: len(titles) // 60]
    request = {"query": np.array(titles[7], object), "document": np.array(documents, object)}
    tokenizer, encoder = tf.AutoTokenizer.from_pretrained(model), tf.AutoModel.from_pretrained(model).eval()
    tokens = tokenizer([titles[7], *documents], truncation=True, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = encoder(**tokens).last_hidden_state
    mask = tokens["attention_mask"][:, :, None]
    vectors = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    expected = (vectors[1:] @ vectors[0]).numpy()
    assert np.abs(BiEncoder(graph).score(request) - expected).max() < 1e-5
