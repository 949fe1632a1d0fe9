"""Rows whose encoder of texts is trained with them: it learns, and what is served of texts is what was trained."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from conformance import (
    check_it_learns_the_planted_structure,
    check_new_items_score_by_their_content,
)
from safetensors.numpy import load_file
from small_backbone import make_backbone

from rbserve.core.errors import ArtifactError, Interrupted, ParityError, UsageError
from rbserve.core.options import with_options
from rbserve.core.requests import slate_request
from rbserve.core.types import ModelSpec, no_observer, no_progress
from rbserve.data.artifact import TOWER, TOWER_GRAPH, WEIGHTS, Artifact, open_artifact
from rbserve.data.dataset import Dataset
from rbserve.exporters import item_tower as exported_tower
from rbserve.exporters.export import export
from rbserve.models.zoo import find_model
from rbserve.pipeline.catalogue import add_items
from rbserve.pipeline.items import serving_encoder, text_encoder
from rbserve.runtimes.item_tower import load_tower, open_tower, torch_tower_call
from rbserve.runtimes.item_vectors import open_content
from rbserve.runtimes.opening import open_ranker, open_scorer
from rbserve.runtimes.texts import VectorTexts, mixed, text_scorer
from rbserve.train.encoders.embed import embed_texts
from rbserve.train.fit import train
from rbserve.train.fitting.loop import Settings
from rbserve.train.tasks import ctr, seq_text
from rbserve.train.tasks.warm_start import continued_spec

SMALL = {"dim": "16", "dropout": "0", "layers": "1", "layers_rate": "1.0", "tower_rate": "0.05"}
TOWERS = {
    "bert": {},
    "llama": {"pooling": "last", "tower_layers": "1", "checkpointing": "true"},
}
"""Small encoders of texts, and what the rows with them have beside SMALL."""
LEARNING = "bert"
"""The one of them with which a row is trained to the end."""
NEW = [("fresh0", "topic2word1"), ("fresh1", "topic0word3 topic1word2"), ("empty", "")]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("encoders")
    names = {"bert": "sentence-bert", "llama": "llama", "t5": "t5"}
    return {name: make_backbone(kind, folder / name) for name, kind in names.items()}


def row(
    encoders: dict[str, Path], encoder: str, model: str = "item-smollm2-135m", **options: str
) -> ModelSpec:
    spec = find_model(model)
    own = {"hidden": "32"} if model.startswith("item") else {"heads": "2"}
    chosen = {
        "backbone": str(encoders["llama"]), "encoder": str(encoders[encoder]), "vectors": "end-to-end",
        **SMALL, **own, **TOWERS.get(encoder, {}), **options,
    }  # fmt: skip
    return dataclasses.replace(spec, config=with_options(spec.config, chosen))


def settings(**changed: Any) -> Settings:
    return Settings(**{"batch": 64, "micro_batch": 64, "lr": 5e-3, "epochs": 2, "patience": 9, **changed})


@pytest.fixture(scope="module", params=TOWERS)
def artifact(
    request: pytest.FixtureRequest,
    encoders: dict[str, Path],
    planted: Dataset,
    tmp_path_factory: pytest.TempPathFactory,
) -> Artifact:
    path, few = tmp_path_factory.mktemp("towers") / "item", {"epochs": 1, "epoch_rows": 256}
    chosen = settings(**({} if request.param == LEARNING else few))
    made = train(row(encoders, request.param), planted, path, chosen)
    exported = export(made, planted)
    assert exported.model_digest == made.model_digest, "a graph of the tower is of the export"
    return exported


@pytest.fixture(scope="module")
def ranking(
    encoders: dict[str, Path], planted: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    spec = row(encoders, "bert", "seq-item-smollm2-135m", negatives="16")
    path = tmp_path_factory.mktemp("towers") / "seq-item"
    return export(train(spec, planted, path, settings(epochs=1, epoch_rows=64)), planted)


def table_of(artifact: Artifact) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The vectors of the items' texts in the weights, as an encoder makes them."""
    weights = load_file(artifact.file(WEIGHTS))
    standardised, center, scale = (
        weights[f"item_embedding.{name}"] for name in ("vectors", "center", "scale")
    )
    return cast(Any, standardised / scale + center)


def test_a_row_learns(artifact: Artifact, planted: Dataset) -> None:
    if Path(artifact.manifest.config["encoder"]).name == LEARNING:
        check_it_learns_the_planted_structure(artifact, planted)
    check_new_items_score_by_their_content(artifact, planted)


def test_the_table_is_what_the_trained_tower_makes_of_texts(artifact: Artifact) -> None:
    """By its graph, and by its torch module; not by the encoder as it was before training."""
    table, texts = table_of(artifact), artifact.items.texts
    encoder = open_tower(artifact)
    np.testing.assert_allclose(encoder(texts), table, atol=1e-4)
    encoder._call = torch_tower_call(load_tower(artifact))
    np.testing.assert_allclose(encoder(texts), table, atol=1e-4)
    config = artifact.manifest.config
    before = embed_texts(texts, config["encoder"], config["pooling"], layers=config["tower_layers"] or None)
    assert np.abs(before - table).max() > 0.01
    assert not any("tower" in name for name in load_file(artifact.file(WEIGHTS)))


def test_every_text_is_read_alike_alone_and_among_others(artifact: Artifact) -> None:
    encoder, texts = (
        open_tower(artifact),
        ["topic1word2", "", "topic0word1 topic3word4 topic1word1", "topic1word2"],
    )
    together = encoder(texts)
    np.testing.assert_allclose(together, np.concatenate([encoder([text]) for text in texts]), atol=1e-5)
    np.testing.assert_array_equal(together[0], together[3])
    assert encoder([]).shape == (0, together.shape[1])


def test_an_unseen_text_scores_as_the_item_with_these_words(artifact: Artifact) -> None:
    history = np.array([3, 7, 11], np.int32)
    for variant in artifact.variants:
        scorer = open_scorer(artifact, variant)
        texts = text_scorer(scorer, lambda: None, lambda: open_content(artifact, serving_encoder(artifact)))  # type: ignore[arg-type,return-value]
        assert isinstance(texts, VectorTexts)
        known = scorer.score(slate_request(history, np.array([5, 9], np.int32)))
        read = mixed(history[[0, 2]], [None, artifact.items.texts[7], None])
        slate = mixed(np.array([9], np.int32), [artifact.items.texts[5], None])
        scores = texts.score(read, slate, {}, no_observer)
        np.testing.assert_allclose(scores, known, atol=1e-5 if "int8" not in variant else 1e-3)


def test_added_items_score_as_those_with_their_texts(artifact: Artifact, tmp_path: Path) -> None:
    copy = open_artifact(Path(shutil.copytree(artifact.path, tmp_path / artifact.name)))
    add_items(copy, [*NEW, ("twin", copy.items.texts[5])], text_encoder(copy))
    new = open_artifact(copy.path)
    twin = new.items.index["twin"]
    for variant in new.variants:
        scorer, history = open_scorer(new, variant), np.array([1, 2], np.int32)
        scores = scorer.score(slate_request(history, np.array([5, twin, twin - 1], np.int32)))
        assert scores[1] == pytest.approx(scores[0], abs=1e-5 if "int8" not in variant else 1e-3)
        assert np.isfinite(scores).all()
    assert new.manifest.variants["onnx-int8"].tower == [TOWER_GRAPH]
    assert TOWER_GRAPH not in new.variant_files("onnx-int8")


def test_texts_of_an_exported_artefact_need_no_torch(artifact: Artifact) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from rbserve.pipeline.items import serving_encoder; from rbserve.data.artifact import open_artifact\n"
        f"print(serving_encoder(open_artifact(Path({str(artifact.path)!r})))(['topic1word1']).shape)\n"
        "assert not {'torch', 'transformers'} & {*sys.modules}, sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("encoder", TOWERS)
def test_the_loss_of_a_batch_reaches_every_weight_of_the_tower(
    encoders: dict[str, Path], planted: Dataset, encoder: str
) -> None:
    model, task = ctr.make(row(encoders, encoder), planted, no_progress)
    model.train()
    task.loss(model, np.arange(16)).backward()  # type: ignore[no-untyped-call]
    tower = [(name, weight) for name, weight in model.named_parameters() if ".tower." in name]
    assert tower
    still = [name for name, weight in tower if weight.grad is None or not weight.grad.any()]
    assert all("token_type" in name for name in still), still
    ranker, listed = seq_text.make(row(encoders, encoder, "seq-item-smollm2-135m"), planted, no_progress)
    ranker.train()
    listed.loss(ranker, np.arange(16)).backward()  # type: ignore[no-untyped-call]
    assert any(
        weight.grad.any()
        for name, weight in ranker.named_parameters()
        if ".tower." in name and weight.grad is not None
    )


def test_activations_computed_twice_give_the_same_gradient(
    encoders: dict[str, Path], planted: Dataset
) -> None:
    gradients = []
    for twice in ("true", "false"):
        torch.manual_seed(0)
        model, task = ctr.make(
            row(encoders, "bert", checkpointing=twice, backbone=str(encoders["llama"])), planted, no_progress
        )
        model.train()
        torch.manual_seed(1)
        task.loss(model, np.arange(16)).backward()  # type: ignore[no-untyped-call]
        gradients.append([weight.grad for name, weight in model.named_parameters() if ".tower." in name])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_an_interrupted_training_ends_with_the_same_weights(
    encoders: dict[str, Path], planted: Dataset, tmp_path: Path
) -> None:
    spec, short = row(encoders, "bert"), settings(epochs=2, epoch_rows=64, batch=16, micro_batch=16)
    whole = train(spec, planted, tmp_path / "whole", short)
    steps = 0

    def stop(_done: int, _total: int, line: str) -> None:
        nonlocal steps
        steps += "epoch" in line
        if steps == 7:  # in the second epoch, after a validation
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        train(spec, planted, tmp_path / "parts", short, progress=stop)
    parts = train(spec, planted, tmp_path / "parts", short, resume=True)
    for name in (WEIGHTS, TOWER):
        assert whole.file(name).read_bytes() == parts.file(name).read_bytes()


def test_a_ranking_has_the_vectors_of_its_tower_too(
    ranking: Artifact, planted: Dataset, tmp_path: Path
) -> None:
    np.testing.assert_allclose(open_tower(ranking)(ranking.items.texts), table_of(ranking), atol=1e-4)
    copy = open_artifact(Path(shutil.copytree(ranking.path, tmp_path / ranking.name)))
    add_items(copy, NEW, text_encoder(copy))
    new, history = open_artifact(copy.path), planted.seqrec("test").histories[0]
    for variant in new.variants:
        items, scores = open_ranker(new, variant).top_k(history, len(new.items))
        assert {len(planted.items), len(planted.items) + 1} <= {*items.tolist()}
        assert np.isfinite(scores).all()


def test_a_training_continues_the_tower(artifact: Artifact, planted: Dataset, tmp_path: Path) -> None:
    """With no better epoch the weights stay; the table is again what the tower makes of texts."""
    spec = continued_spec(find_model("item-smollm2-135m"), artifact, [])
    again = train(
        spec, planted, tmp_path / "again", settings(epochs=1, epoch_rows=16, lr=1e-12), init=artifact
    )
    np.testing.assert_allclose(table_of(again), table_of(artifact), atol=1e-4)
    before, after = (load_file(each.file(TOWER)) for each in (artifact, again))
    for name, tensor in before.items():
        np.testing.assert_allclose(after[name], tensor, atol=1e-6)


def test_a_graph_that_makes_other_vectors_is_refused(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(known: Artifact) -> Any:
        tower = load_tower(known)
        cast(Any, tower.base).get_input_embeddings().weight.data.mul_(0.5)
        return tower

    monkeypatch.setattr(exported_tower, "load_tower", other)
    with pytest.raises(ParityError, match="makes other vectors of texts than its item table"):
        exported_tower.write_tower(artifact, tmp_path)


def test_a_damaged_tower_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    copy = open_artifact(Path(shutil.copytree(artifact.path, tmp_path / artifact.name)))
    (copy.path / TOWER_GRAPH).write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match="is damaged"):
        add_items(copy, NEW, text_encoder(copy))


def test_what_cannot_be_trained_is_refused(
    encoders: dict[str, Path], planted: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="architecture t5, which cannot be trained as an item tower"):
        train(row(encoders, "t5"), planted, tmp_path / "t5", settings())
    with pytest.raises(UsageError, match=r"tower_layers=3, and .* has 2"):
        train(row(encoders, "bert", tower_layers="3"), planted, tmp_path / "deep", settings())
    with pytest.raises(UsageError, match="random weights are not trained"):
        train(
            dataclasses.replace(row(encoders, "bert"), random=True), planted, tmp_path / "random", settings()
        )
    with pytest.raises(UsageError, match="tower_layers=1 is of an encoder that is trained"):
        row(encoders, "bert", vectors="frozen", tower_layers="1")
    with pytest.raises(UsageError, match="vectors"):
        with_options(find_model("bst-emb").config, {"vectors": "end-to-end"})
