"""Items added to a trained artefact score as if it had been trained with them, and nothing else moves."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from entry_point import rbserve
from serving import serving
from small import train_small
from small_backbone import make_backbone
from torch.nn.functional import embedding_bag

from rbserve.client import Client, ServerError
from rbserve.core.errors import ArtifactError, UsageError
from rbserve.core.options import with_options
from rbserve.core.requests import slate_request
from rbserve.data.artifact import Artifact, open_artifact
from rbserve.data.dataset import Dataset, open_dataset
from rbserve.data.golden import ranked_otherwise
from rbserve.exporters.export import export
from rbserve.models.itemknn import FLOOR
from rbserve.models.zoo import find_model
from rbserve.pipeline import catalogue, training
from rbserve.pipeline.catalogue import add_items, retire_items
from rbserve.pipeline.items import text_encoder
from rbserve.profilers.measure.harness import default_plan, profile
from rbserve.runtimes.item_vectors import open_content
from rbserve.runtimes.opening import open_ranker, open_scorer
from rbserve.runtimes.torch import load_model
from rbserve.train.encoders.embed import embed_texts
from rbserve.train.fit import train
from rbserve.train.fitting.loop import Settings

NEW = [("fresh0", "topic2word1"), ("fresh1", "topic0word3 topic1word2"), ("fresh2", "nothing known here")]
SMALL = {"layers": "2", "dim": "16", "heads": "2"}
CODES = {"levels": "3", "codes": "8"}


@pytest.fixture(scope="module")
def planted(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A copy: identifiers are kept with the data set, and other modules expect theirs alone."""
    return open_dataset(shutil.copytree(planted.path, tmp_path_factory.mktemp("fresh") / "planted"))


@pytest.fixture(scope="module")
def made(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """A small artefact of every kind, made when a test first asks for it."""
    folder = tmp_path_factory.mktemp("rows")
    bert, llama = (
        str(make_backbone(name, folder / "backbones" / name)) for name in ("sentence-bert", "llama")
    )
    options = {
        "dnn-emb": {"dim": "16", "hidden": "32", "encoder": bert},
        "gdcn-emb": {"dim": "16", "hidden": "32", "encoder": bert, "vectors": "tuned"},
        "bst-emb": {"dim": "16", "heads": "2", "hidden": "32", "encoder": bert, "vectors": "frozen"},
        "item-smollm2-135m": {
            "dim": "16",
            "hidden": "32",
            "encoder": bert,
            "vectors": "frozen",
            "backbone": llama,
            "layers": "1",
        },
        "sasrec-3l": SMALL,
        "sasrec-2l-emb": SMALL | {"encoder": bert, "freshness": "0.5"},
        "hstu": SMALL | {"encoder": bert, "freshness": "0.5", "neighbours": "8", "neighbour_weight": "0.5"},
        "sid-sasrec-3l-cbs": SMALL | CODES | {"encoder": bert},
        "sid-sasrec-3l-parallel": SMALL | CODES | {"encoder": bert},
        "zeroshot-smollm2-135m": {"backbone": llama},
        "text-minilm-l6": {"backbone": bert, "meet": "1", "lora_rank": "4"},
        "sid-smollm2-135m": {"backbone": llama, "lora_rank": "4", "encoder": bert} | CODES,
        "seq-sid-smollm2-135m-cbs": {"backbone": llama, "lora_rank": "4", "encoder": bert} | CODES,
        "seq-sid-smollm2-135m-parallel": {"backbone": llama, "lora_rank": "4", "encoder": bert} | CODES,
        "seq-p5-smollm2-135m": {"backbone": llama, "lora_rank": "4"},
    }

    class Made(dict[str, Artifact]):
        def __missing__(self, name: str) -> Artifact:
            if name in ("dnn", "dnn-text"):
                artifact = train_small(name, planted, folder / name, epochs=2)
            else:
                spec = find_model(name)
                spec = dataclasses.replace(spec, config=with_options(spec.config, options[name]))
                settings = Settings(batch=64, micro_batch=32, lr=5e-3, epochs=1, epoch_rows=128)
                artifact = train(spec, planted, folder / name, settings)
            precisions = ["fp32"] if artifact.is_language_model else ["fp32", "int8"]
            self[name] = export(artifact, planted, precisions)
            return self[name]

    return Made()


def copy_of(artifact: Artifact, folder: Path) -> Artifact:
    return open_artifact(Path(shutil.copytree(artifact.path, folder / artifact.name)))


def added(artifact: Artifact, new: list[tuple[str, str]] = NEW) -> Artifact:
    add_items(artifact, new, text_encoder(artifact))
    return open_artifact(artifact.path)


SCORES = [
    "dnn-text",
    "dnn-emb",
    "gdcn-emb",
    "bst-emb",
    "item-smollm2-135m",
    "zeroshot-smollm2-135m",
    "text-minilm-l6",
    "sid-smollm2-135m",
]
RANKS = [
    "sid-sasrec-3l-cbs",
    "seq-sid-smollm2-135m-cbs",
    "sid-sasrec-3l-parallel",
    "seq-sid-smollm2-135m-parallel",
]


@pytest.mark.parametrize("name", SCORES)
def test_scores_of_the_other_items_stay_what_they_were(
    name: str, made: dict[str, Artifact], planted: Dataset, tmp_path: Path
) -> None:
    old = made[name]
    new = added(copy_of(old, tmp_path))
    assert new.items.ids == [*old.items.ids, *(item for item, _ in NEW)]
    assert new.manifest.catalogue is not None
    assert (new.manifest.catalogue.trained, new.manifest.catalogue.added) == (len(old.items), 3)
    assert new.model_digest != old.model_digest
    history, candidates = planted.ctr("test").histories[0], np.arange(len(old.items), dtype=np.int32)
    for variant in old.variants:
        before = open_scorer(old, variant).score(slate_request(history, candidates))
        after = open_scorer(new, variant).score(slate_request(history, candidates))
        # Where the weights lie in memory decides how a kernel adds up: with AVX2 the last bit of a sum may differ.
        np.testing.assert_array_max_ulp(after, before, maxulp=2)


@pytest.mark.parametrize("name", SCORES)
def test_an_item_with_the_text_of_another_scores_like_it_as_candidate_and_in_a_history(
    name: str, made: dict[str, Artifact], tmp_path: Path
) -> None:
    old = made[name]
    twin = 5
    new = added(copy_of(old, tmp_path), [("twin", old.items.texts[twin])])
    row = new.items.index["twin"]
    if name.startswith("sid-"):  # a path of its own, as near as there is room
        assert row == len(old.items)
        return
    if name == "gdcn-emb":  # its twin's vector was trained since
        return
    for variant in old.variants:
        scorer = open_scorer(new, variant)
        history = np.array([1, 2, 3], np.int32)
        scores = scorer.score(slate_request(history, np.array([twin, row, 7], np.int32)))
        assert scores[1] == pytest.approx(scores[0], abs=1e-6)
        one, other = (
            scorer.score(slate_request(np.array([1, 2, last], np.int32), history)) for last in (twin, row)
        )
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("name", ["dnn-text", "dnn-emb", "gdcn-emb", "bst-emb", "item-smollm2-135m"])
def test_new_rows_score_as_torch_scores_their_texts(
    name: str, made: dict[str, Artifact], planted: Dataset, tmp_path: Path
) -> None:
    new = added(copy_of(made[name], tmp_path))
    model, texts = load_model(made[name]), [text for _, text in NEW]
    known = planted.items.texts[:3]

    def vectors(wanted: list[str]) -> torch.Tensor:
        items = model.item_embedding
        if name == "dnn-text":
            numbers = {word: place for place, word in enumerate(planted.words)}
            words = [[numbers[word] for word in text.split() if word in numbers] for text in wanted]
            values = torch.tensor([number for numbers in words for number in numbers])
            offsets = torch.tensor(np.cumsum([0, *map(len, words)]))
            return embedding_bag(values, items.words.weight, offsets, mode="mean", include_last_offset=True)
        encoded = torch.from_numpy(embed_texts(wanted, new.manifest.config["encoder"]))
        return items.project((encoded - items.center) * items.scale)

    rows = np.arange(len(planted.items), len(new.items), dtype=np.int32)
    with torch.inference_mode():
        if name == "gdcn-emb":  # known items have trained vectors: histories of new items alone
            expected = model.score_vectors(vectors(texts), vectors(texts)).numpy()
            history = rows
        else:
            expected = model.score_vectors(vectors(known), vectors(texts)).numpy()
            history = np.arange(3, dtype=np.int32)
    for variant in ("torch-fp32", "onnx-fp32"):
        np.testing.assert_allclose(
            open_scorer(new, variant).score(slate_request(history, rows)), expected, atol=1e-5
        )


@pytest.mark.parametrize("name", RANKS)
def test_a_ranker_recommends_a_new_item_where_its_like_is_recommended(
    name: str, made: dict[str, Artifact], planted: Dataset, tmp_path: Path
) -> None:
    old = made[name]
    histories = planted.seqrec("test").histories
    best = [open_ranker(old, "onnx-fp32").top_k(histories[row], 3)[0] for row in range(20)]
    twins = [
        (f"twin{item}", old.items.texts[item]) for item in sorted({int(item) for top in best for item in top})
    ]
    new = added(copy_of(old, tmp_path), twins)
    assert len(new.sids) == len(new.items)
    assert len(np.unique(new.sids.codes, axis=0)) == len(new.items)
    np.testing.assert_array_equal(new.sids.codes[: len(old.items)], old.sids.codes)
    for variant in ("torch-fp32", "onnx-fp32"):
        ranker = open_ranker(new, variant)
        found = {int(item) for row in range(20) for item in ranker.top_k(histories[row], 20)[0]}
        assert found & set(range(len(old.items), len(new.items)))
        assert len(ranker.top_k(np.array([len(old.items)], np.int32), 5)[0])  # in a history


def test_sums_of_code_scores_stay_what_they_were_beside_new_items(
    made: dict[str, Artifact], planted: Dataset, tmp_path: Path
) -> None:
    old, history = made["sid-sasrec-3l-parallel"], planted.seqrec("test").histories[0]
    new = added(copy_of(old, tmp_path))
    for variant in old.variants:
        before, scores_before = open_ranker(old, variant).top_k(history, len(old.items))
        after, scores_after = open_ranker(new, variant).top_k(history, len(new.items))
        known = after < len(old.items)
        assert known.sum() == len(new.items) - len(NEW) == len(before)
        np.testing.assert_array_equal(scores_after[known], scores_before)


@pytest.mark.parametrize("name", ["sasrec-2l-emb", "hstu"])
def test_a_ranking_with_texts_scores_a_new_item_by_its_text_and_the_bias_of_an_unseen_one(
    name: str, made: dict[str, Artifact], planted: Dataset, tmp_path: Path
) -> None:
    old, history = made[name], planted.seqrec("test").histories[0]
    new, count = added(copy_of(old, tmp_path)), len(planted.items)
    model, everything = load_model(old), len(planted.items) + len(NEW)
    encoded = torch.from_numpy(embed_texts([text for _, text in NEW], new.manifest.config["encoder"]))
    items = model.item_embedding
    with torch.inference_mode():
        state = model.folded().transformer.last(torch.from_numpy(history[None].astype(np.int64)))
        vectors = items.projection((encoded - items.center) * items.scale)
        bias, life = model.new_item
        expected = (state @ vectors.T)[0] + bias + 0.5 * life
        if model.neighbours is not None:
            expected += 0.5 * np.log(FLOOR)  # a new item is nobody's neighbour
    for variant in old.variants:
        ranked, scores = open_ranker(new, variant).top_k(history, everything)
        before, known_scores = open_ranker(old, variant).top_k(history, count)
        known = ranked < count
        np.testing.assert_array_equal(ranked[known], before)
        np.testing.assert_allclose(scores[known], known_scores, atol=1e-6)
        by_item = dict(zip(ranked.tolist(), scores.tolist(), strict=True))
        exact = 1e-4 if variant != "onnx-int8" else 0.1
        np.testing.assert_allclose([by_item[count + row] for row in range(3)], expected, atol=exact)
        assert len(open_ranker(new, variant).top_k(np.array([count, 1], np.int32), 5)[0]) == 5


@pytest.mark.parametrize(
    "name",
    ["sasrec-3l", "sasrec-2l-emb", "sid-sasrec-3l-cbs", "sid-sasrec-3l-parallel", "seq-p5-smollm2-135m"],
)
def test_a_retired_item_is_never_recommended_and_the_others_keep_their_order(
    name: str, made: dict[str, Artifact], planted: Dataset, tmp_path: Path
) -> None:
    old = made[name]
    histories = planted.seqrec("test").histories
    k = len(old.items)
    before = [open_ranker(old, "onnx-fp32").top_k(histories[row], k)[0] for row in range(5)]
    gone = sorted({int(item) for top in before for item in top[:2]})
    copy = copy_of(old, tmp_path)
    changed = retire_items(copy, [old.items.ids[item] for item in gone])
    assert (changed.retired, changed.items) == (len(gone), len(old.items))
    new = open_artifact(copy.path)
    for variant in ("torch-fp32", "onnx-fp32"):
        ranker = open_ranker(new, variant)
        for row, top in enumerate(before):
            items, scores = ranker.top_k(histories[row], k)
            assert not set(items.tolist()) & set(gone)
            if not ranker.generates:  # type: ignore[attr-defined]
                assert items.tolist() == [item for item in top.tolist() if item not in gone]
            assert (np.diff(scores) <= 1e-6).all()
        batch, _ = ranker.top_k_batch(np.stack([histories[0][:2], histories[1][:2]]), 4)
        assert batch.shape == (2, 4)
        assert not np.isin(batch, gone).any()
    checks = new.checks("onnx-fp32")
    assert checks is not None
    assert ranked_otherwise(checks, open_ranker(new, "onnx-fp32").top_k) is None


def test_a_retired_item_comes_back_when_it_is_added_again(made: dict[str, Artifact], tmp_path: Path) -> None:
    copy = copy_of(made["dnn-text"], tmp_path)
    first = copy.items.ids[0]
    assert retire_items(copy, [first, first]).repeated == 1
    retired = open_artifact(copy.path)
    assert retired.items.retired == {0}
    assert retire_items(retired, [first]).known == 1
    changed = add_items(retired, [(first, "another text"), *NEW, NEW[0]], text_encoder(retired))
    assert (changed.added, changed.returned, changed.known, changed.repeated) == (3, 1, 0, 1)
    back = open_artifact(copy.path)
    assert not back.items.retired
    assert back.items.texts[0] == copy.items.texts[0]


def test_what_is_there_already_is_counted_and_changes_nothing(
    made: dict[str, Artifact], tmp_path: Path
) -> None:
    copy = copy_of(made["dnn-text"], tmp_path)
    before = {
        file: (file.stat().st_ino, file.read_bytes()) for file in copy.path.rglob("*") if file.is_file()
    }
    changed = add_items(copy, [(copy.items.ids[3], "x")], text_encoder(copy))
    assert (changed.known, changed.added, changed.items) == (1, 0, len(copy.items))
    assert {file: (file.stat().st_ino, file.read_bytes()) for file in before} == before


@pytest.mark.parametrize(("name", "reason"), [
    ("dnn", "its items are their ids"), ("sasrec-3l", "its items are their ids"),
    ("seq-p5-smollm2-135m", "a token of its own"),
])  # fmt: skip
def test_a_row_of_ids_refuses_new_items_with_the_reason(
    name: str, reason: str, made: dict[str, Artifact]
) -> None:
    with pytest.raises(UsageError, match=reason) as error:
        add_items(made[name], NEW, text_encoder(made[name]))
    assert "--init" in str(error.value.hint)


def test_identifiers_of_an_earlier_version_refuse_new_items(
    made: dict[str, Artifact], tmp_path: Path
) -> None:
    copy = copy_of(made["sid-sasrec-3l-cbs"], tmp_path)
    manifest = json.loads((copy.path / "manifest.json").read_text())
    del manifest["files"]["sids/rqvae.safetensors"]
    (copy.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="did not keep what made them"):
        add_items(open_artifact(copy.path), NEW, text_encoder(copy))


def test_a_failure_leaves_the_artefact_as_it_was(
    made: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copy_of(made["dnn-text"], tmp_path)
    before = {file: file.read_bytes() for file in copy.path.rglob("*") if file.is_file()}
    monkeypatch.setattr(catalogue, "scored_otherwise", lambda checks, score: "a score differs by 0.5")  # noqa: ARG005
    with pytest.raises(ArtifactError, match="would answer otherwise"):
        added(copy)
    assert {file: file.read_bytes() for file in copy.path.rglob("*") if file.is_file()} == before
    assert [path.name for path in copy.path.parent.iterdir()] == [copy.name]


def test_all_items_cannot_be_retired_and_unknown_ones_are_named(
    made: dict[str, Artifact], tmp_path: Path
) -> None:
    copy = copy_of(made["dnn"], tmp_path)
    with pytest.raises(UsageError, match="all 82 items of dnn would be retired"):
        retire_items(copy, list(copy.items.ids))
    with pytest.raises(UsageError, match="dnn has no item 'x0', 'x1'"):
        retire_items(copy, [copy.items.ids[0], "x0", "x1"])
    assert not open_artifact(copy.path).items.retired


def test_another_encoder_than_that_of_the_training_is_refused(
    made: dict[str, Artifact], tmp_path: Path
) -> None:
    copy = copy_of(made["dnn-emb"], tmp_path)

    def other(texts: object) -> np.ndarray:  # type: ignore[type-arg]
        return -text_encoder(copy)(texts)  # type: ignore[arg-type]

    with pytest.raises(ArtifactError, match="is not the one that dnn-emb was trained with"):
        add_items(copy, NEW, other)


def test_an_artefact_with_more_items_is_still_exported_and_profiled_on_its_data(
    made: dict[str, Artifact], planted: Dataset, tmp_path: Path
) -> None:
    new = added(copy_of(made["dnn-text"], tmp_path))
    again = export(new, planted, ["fp32"])
    plan = msgspec.structs.replace(default_plan(), processes=1, runs=5, slates=[4])
    run = profile(again, planted, plan, ["onnx-fp32"])
    assert not run.failed
    assert run.results[0].accuracy["auc"] == pytest.approx(
        profile(made["dnn-text"], planted, plan, ["onnx-fp32"]).results[0].accuracy["auc"]
    )


def test_words_need_no_torch(made: dict[str, Artifact], tmp_path: Path) -> None:
    """Nor do graphs: rows are appended, nothing is traced."""
    copy = copy_of(made["dnn-text"], tmp_path)
    program = (
        "import sys; from pathlib import Path\n"
        "from rbserve.pipeline.catalogue import add_items; from rbserve.data.artifact import open_artifact\n"
        f"add_items(open_artifact(Path({str(copy.path)!r})), [('fresh', 'topic1word1')], None)\n"
        "assert 'torch' not in sys.modules, 'torch'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert "fresh" in open_artifact(copy.path).items.index


def test_content_of_rows_is_the_folded_table(made: dict[str, Artifact]) -> None:
    for name in ("dnn-text", "dnn-emb", "gdcn-emb", "bst-emb", "item-smollm2-135m"):
        content = open_content(made[name], text_encoder(made[name]))
        assert content is not None
        folded = load_model(made[name]).folded().item_embedding.weight.detach().numpy()
        rows = np.arange(len(folded), dtype=np.int32)
        np.testing.assert_allclose(content.of_rows(rows), folded, atol=1e-5)
    for name in ("sasrec-2l-emb", "hstu"):
        content = open_content(made[name], text_encoder(made[name]))
        assert content is not None
        folded = load_model(made[name]).folded().items.detach().numpy()
        rows = np.arange(len(folded), dtype=np.int32)
        np.testing.assert_allclose(content.of_rows(rows), folded, atol=1e-5)
    assert open_content(made["dnn"], text_encoder(made["dnn"])) is None


def test_the_command_adds_and_retires_from_files(made: dict[str, Artifact], tmp_path: Path) -> None:
    copy = copy_of(made["dnn-text"], tmp_path)
    (tmp_path / "new.csv").write_text(
        "sku,name\nfresh0,topic1word1\nfresh0,again\nempty,\nfresh1,Topic2word1!\n"
    )
    done = rbserve(
        "items", "add", str(copy.path), "--items", "new.csv", "--id", "sku", "--text", "name", "--json",
        home=tmp_path,
    )  # fmt: skip
    said = json.loads(done.stdout)
    assert (said["added"], said["repeated"], said["left_out"]) == (2, 1, {"item without text": 1})
    (tmp_path / "old.csv").write_text("item_id\nfresh1\n")
    done = rbserve("items", "retire", str(copy.path), "--items", "old.csv", home=tmp_path)
    assert "dnn-text: 1 retired; 84 items" in done.stderr
    done = rbserve("items", "retire", str(copy.path), "--ids", "fresh1,fresh0", home=tmp_path)
    assert "1 retired, 1 already so" in done.stderr
    lacking = rbserve("items", "add", str(copy.path), "--items", "new.csv", home=tmp_path, check=1)
    assert "lacks the column 'item_id'" in lacking.stderr
    both = rbserve("items", "retire", str(copy.path), home=tmp_path, check=2)
    assert "give either --items or --ids" in both.stderr


def test_a_training_that_replaces_changed_items_says_so(
    made: dict[str, Artifact], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = copy_of(made["dnn-text"], tmp_path)
    training._say_what_is_replaced(copy.path)
    training._say_what_is_replaced(tmp_path / "nothing")
    assert capsys.readouterr().err == ""
    retire_items(copy, copy.items.ids[:2])
    training._say_what_is_replaced(copy.path)
    assert "has 0 added and 2 retired items" in capsys.readouterr().err


def test_a_server_takes_new_items_up_without_losing_a_request(
    made: dict[str, Artifact], planted: Dataset, tmp_path: Path
) -> None:
    scoring, ranking = (copy_of(made[name], tmp_path) for name in ("dnn-text", "sid-sasrec-3l-cbs"))
    ids, answered, stop = planted.items.ids, [0], threading.Event()
    histories = planted.seqrec("test").histories
    twins = [(f"twin{row}", text) for row, text in enumerate(planted.items.texts[:40])]
    with serving(scoring, ranking, admin=True) as server, Client(server.url) as client:

        def ask() -> None:
            with Client(server.url) as other:
                while not stop.is_set():
                    other.score(ids[:3], ids[3:6])
                    answered[0] += 1

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        with pytest.raises(ServerError, match="candidates has items that"):
            client.score([], ["fresh0"])
        before = client.score(ids[:3], ids[3:6])
        added(scoring)
        added(ranking, twins)
        retire_items(open_artifact(scoring.path), [ids[9]])
        assert [model.items for model in client.reload()] == [len(ids) + 3, len(ids) + 40]
        assert client.score(ids[:3], ids[3:6]) == before
        with_new = client.score([*ids[:3], "fresh0"], ["fresh0", "fresh1", ids[3]])
        assert len(set(with_new)) == 3
        recommended = client.recommend(planted.items.names(histories[0]), k=20)
        assert {item for item, _ in recommended} & {item for item, _ in twins}
        assert client.recommend(["twin0"], k=3)
        with pytest.raises(ServerError, match="retired") as refused:
            client.score([ids[9]], [ids[9]])
        assert refused.value.code == "retired_items"
        assert client.score([ids[9]], [ids[8]])
        asked = answered[0]
        while answered[0] == asked:
            stop.wait(0.01)
        stop.set()
        asking.join()
        assert asking.is_alive() is False
    assert answered[0] > 1
