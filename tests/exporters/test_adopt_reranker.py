"""Rerankers of transformers become graphs over tokens: equal to transformers in tokens and scores, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers as tf
from adopted import write_requests
from safetensors.torch import load_file, save_file
from small_reranker import POSITIONS, TRICKY_TEXTS, make_reranker

from rbserve.core.adoption import AdoptOptions
from rbserve.core.errors import RbserveError
from rbserve.core.types import StagedScorer
from rbserve.data.request_set import ColumnRecord
from rbserve.exporters.adopt.adopt import adopt as adopt_model
from rbserve.exporters.adopt.converted import Converted
from rbserve.exporters.adopt.encoders import ARCHITECTURES
from rbserve.exporters.adopt.reranker import convert
from rbserve.exporters.export import export
from rbserve.runtimes.opening import open_scorer
from rbserve.runtimes.reranker import SCORERS, TokenGraph, open_tokenizer
from rbserve.runtimes.session import open_session
from rbserve.runtimes.text_tokens import TextTokenizer

COLUMNS = {
    "query": ColumnRecord("str", "request", None, 0),
    "document": ColumnRecord("str", "candidate", None, 1),
    "likes": ColumnRecord("int64", "candidate", None, 2),
}
ONE_TYPE = {"roberta": {"type_vocab_size": 1}}
QUERIES = ["topic1word3", "", "topic2word1 " * 100, "日本 🦊"]


def edit(file: Path, values: dict[str, Any]) -> None:
    """Sets values of a JSON file."""
    before = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(before | values))


def adopt(
    source: Path, folder: Path, columns: dict[str, ColumnRecord] | None = None, **options: Any
) -> Converted:
    folder.mkdir(exist_ok=True)
    return convert(source, columns or COLUMNS, AdoptOptions(**options), folder)


def opened(converted: Converted, most_tokens: int = 256) -> StagedScorer:
    """The scorer of what a converter made."""
    assert converted.graph
    session = open_session(converted.graph, threads=1)
    (output,) = session.get_outputs()
    (tokenizer,) = converted.files
    return SCORERS[output.name](TokenGraph(session, open_tokenizer(tokenizer), most_tokens))


def request_of(query: str, documents: list[str]) -> dict[str, Any]:
    return {"query": np.array(query, object), "document": np.array(documents, object)}


def pair_scores(source: Path, query: str, documents: list[str]) -> Any:
    """What transformers answers, all texts padded together."""
    model = tf.AutoModelForSequenceClassification.from_pretrained(source).eval()
    tokenizer = tf.AutoTokenizer.from_pretrained(source)
    tokens = tokenizer(
        [query] * len(documents), documents, truncation=True, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        logits = model(**tokens).logits
    return (logits.sigmoid()[:, 0] if logits.shape[1] == 1 else logits.softmax(-1)[:, 1]).numpy()


def cosines(source: Path, query: str, documents: list[str], first_token: bool = False) -> Any:
    model = tf.AutoModel.from_pretrained(source).eval()
    tokenizer = tf.AutoTokenizer.from_pretrained(source)
    vectors = []
    for text in (query, *documents):  # one by one: no padding at all
        tokens = tokenizer(text, truncation=True, return_tensors="pt")
        with torch.no_grad():
            states = model(**tokens).last_hidden_state[0]
        vectors.append(states[0] if first_token else states.mean(0))
    return torch.cosine_similarity(vectors[0][None], torch.stack(vectors[1:])).numpy()


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("query", QUERIES)
def test_a_cross_encoder_scores_tricky_texts_as_transformers_does(
    tmp_path: Path, labels: int, query: str
) -> None:
    source = make_reranker(tmp_path / "model", labels)
    scores = opened(adopt(source, tmp_path / "out")).score(request_of(query, TRICKY_TEXTS))
    expected = pair_scores(source, query, TRICKY_TEXTS)
    assert np.abs(scores - expected).max() < 1e-5
    assert np.ptp(expected) > 3e-3, "a model that scores all texts alike proves nothing"


@pytest.mark.parametrize(
    ("architecture", "head"),
    [*((name, True) for name in ARCHITECTURES if name != "bert"), ("mpnet", False), ("xlm-roberta", False)],
)
def test_every_architecture_scores_as_in_transformers(tmp_path: Path, architecture: str, head: bool) -> None:
    source = make_reranker(tmp_path / "model", architecture=architecture, head=head)
    documents = [text for text in TRICKY_TEXTS if text.strip()]
    scores = opened(adopt(source, tmp_path / "out")).score(request_of("topic1word3", documents))
    expected = (pair_scores if head else cosines)(source, "topic1word3", documents)
    assert np.abs(scores - expected).max() < 1e-5
    assert np.ptp(expected) > 1e-3


@pytest.mark.parametrize("head", [True, False], ids=["cross-encoder", "bi-encoder"])
def test_scores_do_not_depend_on_how_a_slate_is_divided_into_calls(tmp_path: Path, head: bool) -> None:
    converted = adopt(make_reranker(tmp_path / "model", head=head), tmp_path / "out")
    documents = [f"topic{number % 4}word{number % 7} " * (number * 5 % 13) for number in range(50)]
    request = request_of("topic1word1", documents)
    whole, parted = (opened(converted, most_tokens).score(request) for most_tokens in (10**6, 40))
    alone = [opened(converted).score(request_of("topic1word1", [text]))[0] for text in documents]
    assert np.abs(whole - parted).max() < 1e-6
    assert np.abs(whole - alone).max() < 1e-6


def test_an_empty_slate_has_no_scores(tmp_path: Path) -> None:
    for head in (True, False):
        converted = adopt(make_reranker(tmp_path / f"model{head}", head=head), tmp_path / f"out{head}")
        assert opened(converted).score(request_of("topic1word1", [])).shape == (0,)


def test_texts_have_the_tokens_that_transformers_makes(tmp_path: Path) -> None:
    source = make_reranker(tmp_path / "model")
    ours = TextTokenizer(open_tokenizer(adopt(source, tmp_path / "out").files[0]))
    theirs = tf.AutoTokenizer.from_pretrained(source)
    for query in QUERIES:
        pairs = [query] * len(TRICKY_TEXTS), TRICKY_TEXTS
        expected = theirs(*pairs, truncation=True, padding=True)
        tokens = ours.encode([*zip(*pairs, strict=True)])
        assert {name: tensor.tolist() for name, tensor in ours.padded(tokens).items()} == dict(expected)
        assert max(map(len, tokens)) == POSITIONS


def test_stages_are_tokens_and_forward(tmp_path: Path) -> None:
    scorer, stages = opened(adopt(make_reranker(tmp_path / "model"), tmp_path / "out")), []
    scorer.score_staged(request_of("topic1word1", ["topic1word2"]), stages.append)
    assert stages == ["tokens", "forward"]


@pytest.mark.parametrize("architecture", ["roberta", "distilbert"])
def test_types_of_tokens_that_a_model_does_not_know_are_left_out(tmp_path: Path, architecture: str) -> None:
    source = make_reranker(tmp_path / "model", architecture=architecture, **ONE_TYPE.get(architecture, {}))
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    for part in tokenizer["post_processor"]["pair"]:
        next(iter(part.values()))["type_id"] = 0
    edit(source / "tokenizer.json", tokenizer)
    documents = [text for text in TRICKY_TEXTS if text.strip()]
    expected = pair_scores(source, "topic1word3", documents)
    names = [
        "input_ids",
        "token_type_ids",
        "attention_mask",
    ]  # what a fast tokenizer says unless it is told otherwise
    edit(source / "tokenizer_config.json", {"model_input_names": names})
    scores = opened(adopt(source, tmp_path / "out")).score(request_of("topic1word3", documents))
    assert np.abs(scores - expected).max() < 1e-5


def test_labels_without_a_usual_number_are_told_by_their_place(tmp_path: Path) -> None:
    source = make_reranker(tmp_path / "model", labels=2)
    edit(source / "config.json", {"id2label": {"0": "no", "5": "yes"}, "label2id": {"no": 0, "yes": 5}})
    assert any("chance of its label 1." in line for line in adopt(source, tmp_path / "out").guessed)


def test_columns_are_named_guessed_and_told(tmp_path: Path) -> None:
    source = make_reranker(tmp_path / "model")
    named = adopt(source, tmp_path / "a")
    assert named.signature.columns == ["query", "document"]
    assert not any("fills" in line for line in named.guessed)
    columns = {"asked": COLUMNS["query"], "title": COLUMNS["document"], "note": COLUMNS["document"]}
    guessed = adopt(source, tmp_path / "b", columns)
    assert guessed.signature.columns == ["asked", "title"]
    assert "The column asked fills the input query (--map query=COLUMN)." in guessed.guessed
    mapped = adopt(source, tmp_path / "c", columns, map=("document=note",))
    assert mapped.signature.columns == ["asked", "note"]


@pytest.mark.parametrize(
    ("columns", "given", "message"),
    [
        ({"likes": COLUMNS["likes"]}, (), "which columns fill the inputs query, document"),
        ({"query": COLUMNS["query"]} | dict.fromkeys("ab", COLUMNS["document"]), (), "fill the input document"),
        (COLUMNS, ("document=likes",), "the column likes has numbers"),
        (COLUMNS, ("document=titel",), "unknown column of --map document: titel"),
        (COLUMNS, ("document=query,document",), "takes 1 values, and query, document have 2"),
        (COLUMNS, ("features=likes",), "unknown input of --map: features"),
    ],
)  # fmt: skip
def test_columns_that_cannot_be_told_are_refused(
    tmp_path: Path, columns: dict[str, ColumnRecord], given: tuple[str, ...], message: str
) -> None:
    with pytest.raises(RbserveError, match=message):
        adopt(make_reranker(tmp_path / "model"), tmp_path / "out", columns, map=given)


def _without_config(source: Path) -> None:
    (source / "config.json").unlink()


def _with_pickled_weights(source: Path) -> None:
    (source / "model.safetensors").rename(source / "pytorch_model.bin")


def _with_damaged_weights(source: Path) -> None:
    (source / "model.safetensors").write_bytes(b"no tensors")


def _without_tokenizer(source: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source / name).unlink()


def _with_config(**values: Any) -> Any:
    return lambda source: edit(source / "config.json", values)


def _with_tokenizer(**values: Any) -> Any:
    return lambda source: edit(source / "tokenizer_config.json", values)


def _with_cut_weights(source: Path) -> None:
    weights = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(weights[: len(weights) * 99 // 100])


def _without_a_layer(source: Path) -> None:
    weights = load_file(source / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "layer.1." not in name}
    save_file(kept, source / "model.safetensors", {"format": "pt"})


def _with_more_words(source: Path) -> None:
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["of another model"] = len(words)
    edit(source / "tokenizer.json", {"model": tokenizer["model"]})


def _as_adapter(source: Path) -> None:
    (source / "model.safetensors").rename(source / "adapter_model.safetensors")
    edit(source / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "some/model"})


def _with_code(source: Path) -> None:
    edit(source / "config.json", {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_config, "has no config.json"),
        (_with_pickled_weights, r"no \*.safetensors"),
        (_with_damaged_weights, "transformers cannot load"),
        (_without_tokenizer, "has no tokenizer.json"),
        (_with_code, "contains custom code"),
        (_with_cut_weights, "transformers cannot load .* not fully covered"),
        (_without_a_layer, r"no weights of bert.encoder.layer.1.\S+ and 15 more: they were never trained"),
        (_with_config(num_hidden_layers=3), r"no weights of bert.encoder.layer.2"),
        (_with_config(hidden_size=64), r"of shape \(32,\), and by its config.json of \(64,\)"),
        (_with_config(hidden_size="many"), "the config of .* expected int, got str"),
        (_with_config(hidden_act="magic"), "KeyError: 'magic'"),
        (_with_config(quantization_config={"quant_method": "gptq", "bits": 4}), "weights of .* are quantised"),
        (_with_config(architectures=["BertModel", "BertForMaskedLM"]), "no class of transformers"),
        (_with_config(architectures="BertModel"), "no class of transformers: BertModel"),
        (_with_config(architectures=["pipeline"]), "no class of transformers"),
        (_with_config(architectures=[7]), "no class of transformers"),
        (_as_adapter, "an adapter of another model"),
        (_with_more_words, r"tokens up to number (\d+), and its model \1 of them"),
        (_with_tokenizer(pad_token="[NEW]"), "tokens up to number"),
        (_with_tokenizer(pad_token=None), "no token for padding"),
        (_with_tokenizer(padding_side="middle"), "cannot load the tokenizer of .*middle"),
        (_with_tokenizer(model_max_length="long"), "model_max_length 'long', which is no number"),
        (_with_tokenizer(model_max_length=-1), "cut after -1 tokens"),
        (_with_tokenizer(model_max_length=4), "cut after 4 tokens, which leaves none for query and document"),
        (_with_tokenizer(model_input_names=["input_ids"]), "makes the tensors input_ids"),
        (_with_tokenizer(model_input_names=[]), "makes the tensors nothing"),
        (_with_tokenizer(model_input_names=["input_ids", "attention_mask", "pixels"]), "pixels"),
    ],
)  # fmt: skip
def test_directories_that_cannot_be_adopted_are_refused_in_one_line(
    tmp_path: Path, damage: Any, message: str
) -> None:
    source = make_reranker(tmp_path / "model")
    damage(source)
    with pytest.raises(RbserveError, match=message) as refusal:
        adopt(source, tmp_path / "out")
    assert "\n" not in refusal.value.message


def test_models_that_are_no_rerankers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RbserveError, match="tells 3 labels apart"):
        adopt(make_reranker(tmp_path / "three", labels=3), tmp_path / "a")
    causal = tmp_path / "causal"
    tf.GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=20).save_pretrained(causal)
    shutil.copy(tmp_path / "three" / "model.safetensors", causal)
    with pytest.raises(RbserveError, match="a gpt2 model cannot be adopted as a reranker"):
        adopt(causal, tmp_path / "b")


def test_a_head_that_was_never_trained_is_refused(tmp_path: Path) -> None:
    source = make_reranker(tmp_path / "model", head=False)
    edit(source / "config.json", {"architectures": ["BertForSequenceClassification"]})
    with pytest.raises(RbserveError, match="no weights of classifier"):
        adopt(source, tmp_path / "out")


def test_a_hub_that_cannot_be_reached_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RbserveError, match="some/reranker is no directory, and cannot be had from the hub"):
        convert("some/reranker", COLUMNS, AdoptOptions(), tmp_path)


def test_an_adopted_reranker_is_an_artefact_whose_tokenizer_is_verified(tmp_path: Path) -> None:
    source, documents = make_reranker(tmp_path / "model"), [*TRICKY_TEXTS[:8]]
    requests = write_requests(
        tmp_path / "pairs",
        {"title": np.array(documents, object)},
        {"query": np.array(["topic1word3", "topic0word1"], object)},
        offsets=np.array([0, 3, 8]),
    )
    artifact = adopt_model(str(source), requests, AdoptOptions(), tmp_path / "reranker")
    assert artifact.manifest.item_form == "text"
    assert (artifact.kind, artifact.signature.columns) == ("graph", ["query", "title"])
    scores = open_scorer(artifact, "onnx-fp32").score(requests.request(artifact.signature, 1))
    assert np.abs(scores - pair_scores(source, "topic0word1", documents[3:])).max() < 1e-5
    (tokenizer,) = artifact.manifest.adopted.files  # type: ignore[union-attr]
    (artifact.path / tokenizer).write_text("{}")
    with pytest.raises(RbserveError, match="is damaged"):
        open_scorer(artifact, "onnx-fp32")


@pytest.mark.parametrize("head", [True, False], ids=["cross-encoder", "bi-encoder"])
def test_int8_rounds_every_token_by_itself(tmp_path: Path, head: bool) -> None:
    rng = np.random.default_rng(3)
    documents = [
        " ".join(f"topic{rng.integers(4)}word{rng.integers(10)}" for _ in range(1 + row % 9))
        for row in range(60)
    ]
    requests = write_requests(
        tmp_path / "pairs",
        {"document": np.array(documents, object)},
        {"query": np.array([f"topic{number}word1" for number in range(6)], object)},
        offsets=np.arange(0, 61, 10),
    )
    source = make_reranker(tmp_path / "model", head=head)
    artifact = export(
        adopt_model(str(source), requests, AdoptOptions(), tmp_path / "reranker"), requests, ["int8"]
    )
    record = artifact.manifest.variants["onnx-int8"]
    assert record.activation_scales == "token"
    operators = [node.op_type for node in onnx.load(artifact.file(record.file)).graph.node]
    assert operators.count("ReduceMax") == operators.count("QuantizeLinear") > 4
    assert record.parity.correlation is not None
    assert record.parity.correlation > 0.98
    scorer, request = open_scorer(artifact, "onnx-int8"), requests.request(artifact.signature, 0)
    together = scorer.score(request)
    alone = [scorer.score(request | {"document": request["document"][[place]]})[0] for place in range(10)]
    assert np.abs(together - alone).max() < 1e-5
