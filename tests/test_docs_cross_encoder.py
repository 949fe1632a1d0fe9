"""docs/examples/cross_encoder.py with a small encoder: its texts, and that its model is adopted and scores alike."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import transformers as tf
from docs_example import load_example
from small_reranker import POSITIONS, make_reranker

from rbserve.core.adoption import AdoptOptions
from rbserve.data.request_table import write_request_set
from rbserve.exporters.adopt.adopt import adopt
from rbserve.runtimes.opening import open_scorer

ROWS = 70


@pytest.fixture(scope="module")
def example() -> ModuleType:
    return load_example("cross_encoder")


def test_a_query_has_the_newest_title_first(example: ModuleType, judged_tables: Path) -> None:
    table = pq.read_table(judged_tables / "test.parquet")
    texts = example.pairs(table)
    titles = dict(zip(*pq.read_table(judged_tables / "items.parquet").to_pydict().values(), strict=True))
    for row in range(0, len(table), 17):
        history, item = table["history"][row].as_py(), table["item"][row].as_py()
        assert texts["query"][row] == " ; ".join(titles[liked] for liked in reversed(history))
        assert texts["document"][row] == titles[item]


def test_what_it_writes_is_adopted_and_scores_as_in_transformers(
    example: ModuleType,
    judged_tables: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    encoder, folder = make_reranker(tmp_path / "encoder", head=False), tmp_path / "reranker"
    options = {"--to": folder, "--encoder": encoder, "--rows": ROWS, "--tokens": POSITIONS}
    given = [str(word) for option in options.items() for word in option]
    monkeypatch.setattr(sys, "argv", ["cross_encoder.py", str(judged_tables), *given])
    example.main()
    assert f"step 3 of {-(-ROWS // example.BATCH)}: loss" in capsys.readouterr().out
    before, model = (tf.AutoModel.from_pretrained(path).state_dict() for path in (encoder, folder))
    name = "encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(before[name], model[name]), "nothing was learnt"

    roles = AdoptOptions(label="label", group="request_id", user="user")
    requests = write_request_set(folder / "test.parquet", tmp_path / "data", roles, "test")
    artifact = adopt(str(folder), requests, roles, tmp_path / "artifact")
    assert artifact.signature.columns == ["query", "document"]
    request = requests.request(artifact.signature, 1)
    texts = request["query"].item(), request["document"].tolist()
    classifier = tf.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = tf.AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(
        [texts[0]] * len(texts[1]), texts[1], truncation=True, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = classifier(**tokens).logits[:, 0].sigmoid().numpy()
    scores = open_scorer(artifact, "onnx-fp32").score(request)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
