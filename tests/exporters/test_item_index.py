"""Rankings through an index over item vectors: the same lists as a scan, files that are whole, clear refusals."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from entry_point import rbserve
from small_backbone import make_backbone

from rbserve.core.errors import ArtifactError, UsageError
from rbserve.core.options import with_options
from rbserve.data.artifact import Artifact, open_artifact
from rbserve.data.dataset import Dataset, open_dataset
from rbserve.exporters.export import export
from rbserve.exporters.item_index import tuned, write_index
from rbserve.models.zoo import find_model
from rbserve.pipeline.catalogue import add_items, retire_items
from rbserve.profilers.compare.figures import point_record
from rbserve.profilers.compare.points import points_of
from rbserve.runs.run_file import read_measurement
from rbserve.runtimes.evaluate import rank_rows, recall_at, recommend
from rbserve.runtimes.faiss import IndexRanker
from rbserve.runtimes.item_index import IndexSettings, ItemIndex, build_index, load_index
from rbserve.runtimes.opening import open_ranker
from rbserve.runtimes.vector_table import open_table
from rbserve.server.api.options import Limits
from rbserve.server.scoring.reload import open_service
from rbserve.server.scoring.work import Top
from rbserve.train.fit import train
from rbserve.train.fitting.loop import Settings

pytest.importorskip("faiss")
pytestmark = pytest.mark.usefixtures("few_validation_rows")
INDEXES = ["hnsw", "ivf", "ivf-int8", "ivf-pq"]
VARIANTS = [f"faiss-{name}" for name in INDEXES]


@pytest.fixture(scope="module")
def shop(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(shutil.copytree(planted.path, tmp_path_factory.mktemp("index") / "planted"))


@pytest.fixture(scope="module", params=["sasrec-3l", "hstu", "sasrec-2l-emb"])
def indexed(
    request: pytest.FixtureRequest, shop: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    """A row with all indexes beside the exact graph; hstu has neighbours, sasrec-2l-emb biases alone."""
    return train_indexed(request.param, shop, tmp_path_factory.mktemp("index"))


def train_indexed(name: str, shop: Dataset, folder: Path) -> Artifact:
    spec, options = find_model(name), {"layers": "2", "dim": "16", "heads": "2"}
    if spec.item_form == "embedding":
        options["encoder"] = str(make_backbone("sentence-bert", folder / "encoder"))
        options["neighbours"] = "8" if name == "hstu" else "0"
    spec = dataclasses.replace(spec, config=with_options(spec.config, options))
    trained = train(spec, shop, folder / name, Settings(batch=64, micro_batch=64, lr=5e-3, epochs=2))
    return export(trained, shop, ["fp32", *INDEXES], recall=1.0)


def test_an_index_that_reads_everything_ranks_like_the_exact_graph(indexed: Artifact, shop: Dataset) -> None:
    histories = shop.seqrec("test").histories.take(np.arange(40))
    exact = rank_rows(open_ranker(indexed, "onnx-fp32"), histories, 10)
    for variant in VARIANTS:
        ranker = open_ranker(indexed, variant)
        assert isinstance(ranker, IndexRanker)
        whole = ranker.with_effort(100_000)
        assert recall_at(whole, histories, 10) == 1.0
        np.testing.assert_array_equal(rank_rows(whole, histories, 10), exact)
        parity = indexed.manifest.variants[variant].parity
        assert parity.recall is not None
        assert parity.max_abs <= 1e-4, "scores are those of the exact graph, whatever the index has rounded"


def test_scores_and_empty_histories_are_those_of_the_exact_graph(indexed: Artifact) -> None:
    nothing = np.empty(0, np.int32)
    exact = open_ranker(indexed, "onnx-fp32").top_k(nothing, 5)
    ranker = open_ranker(indexed, VARIANTS[0])
    assert isinstance(ranker, IndexRanker)
    found = ranker.with_effort(100_000).top_k(nothing, 5)  # all are read: an index with less may miss some
    np.testing.assert_allclose(found[1], exact[1], atol=1e-4)


def test_a_list_without_seen_items_is_as_long_as_asked(indexed: Artifact, shop: Dataset) -> None:
    history = shop.seqrec("test").histories[0]
    wanted = len(indexed.items) - len(set(history.tolist()))
    for variant in VARIANTS:
        for k in (3, wanted):
            items, scores = recommend(open_ranker(indexed, variant), history, k, exclude_seen=True)
            assert len(items) == len(set(items.tolist())) == k
            assert not set(items.tolist()) & set(history.tolist())
            assert (np.diff(scores) <= 0).all()


def test_more_items_than_there_are_give_all_of_them(indexed: Artifact) -> None:
    for variant in VARIANTS:
        items, _ = open_ranker(indexed, variant).top_k(np.array([1, 2], np.int32), 10_000)
        assert sorted(items.tolist()) == list(range(len(indexed.items)))


def test_retired_items_are_not_found(indexed: Artifact, tmp_path: Path) -> None:
    copy = open_artifact(shutil.copytree(indexed.path, tmp_path / indexed.name))
    best = open_ranker(copy, VARIANTS[0]).top_k(np.array([1, 2, 3], np.int32), 3)[0]
    retire_items(copy, copy.items.names(best))
    now = open_artifact(copy.path)
    for variant in VARIANTS:
        items, _ = open_ranker(now, variant).top_k(np.array([1, 2, 3], np.int32), 10_000)
        assert len(items) == len(now.items) - 3
        assert not set(items.tolist()) & set(best.tolist())


def test_added_items_are_in_the_index(indexed: Artifact, tmp_path: Path) -> None:
    if indexed.name == "sasrec-3l":
        with pytest.raises(UsageError, match="an item's vector is learnt from clicks"):
            add_items(indexed, [("new", "red shoes")], lambda texts: np.zeros((len(texts), 32), np.float32))
        return
    copy = open_artifact(shutil.copytree(indexed.path, tmp_path / indexed.name))
    table = open_table(copy.path)
    from rbserve.train.encoders.embed import embed_texts

    encoder = copy.manifest.config["encoder"]
    add_items(
        copy, [("new", copy.items.texts[0]), ("newer", "")], lambda texts: embed_texts(list(texts), encoder)
    )
    now = open_artifact(copy.path)
    assert len(open_table(now.path)) == len(table) + 2
    histories = [np.array(items, np.int32) for items in ([1, 2, 3], [len(table), 4])]
    for variant in VARIANTS:
        ranker = open_ranker(now, variant)
        assert isinstance(ranker, IndexRanker)
        for history in histories:
            exact = open_ranker(now, "onnx-fp32").top_k(history, 10_000)
            found = ranker.with_effort(100_000).top_k(history, 10_000)
            assert sorted(found[0].tolist()) == list(range(len(now.items)))
            np.testing.assert_allclose(found[1], exact[1], atol=1e-4)


def test_equal_vectors_give_equal_files(indexed: Artifact, tmp_path: Path) -> None:
    table = open_table(indexed.path)
    for kind in INDEXES:
        write_index(tmp_path / kind, kind, table)
        assert (tmp_path / kind).read_bytes() == (indexed.path / f"index/{kind}.faiss").read_bytes(), kind


def test_a_damaged_index_is_refused(indexed: Artifact, tmp_path: Path) -> None:
    copy = open_artifact(shutil.copytree(indexed.path, tmp_path / indexed.name))
    for name in ("index/hnsw.faiss", "index/vectors.npy"):
        content = bytearray((copy.path / name).read_bytes())
        content[-1] ^= 1
        (copy.path / name).write_bytes(content)
        with pytest.raises(ArtifactError, match=f"is damaged: .*{name} has sha256"):
            open_ranker(copy, "faiss-hnsw")
        shutil.copyfile(indexed.path / name, copy.path / name)
    (copy.path / "index/hnsw.faiss").unlink()
    with pytest.raises(ArtifactError, match=r"index/hnsw.faiss is missing"):
        open_ranker(copy, "faiss-hnsw")


def test_a_file_that_is_no_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index").write_bytes(b"no index at all, but long enough to be read as one")
    with pytest.raises(ArtifactError, match="faiss cannot read"):
        load_index(tmp_path / "index")


def test_codes_need_items_to_be_fitted_on() -> None:
    few = np.ones((5, 8), np.float32)
    with pytest.raises(UsageError, match="ivf-pq needs 16 items at least, and there are 5"):
        build_index("ivf-pq", few, [few], 5)


def test_lists_that_are_too_short_are_read_on() -> None:
    """One list of 40 has two vectors: a search that reads it alone goes on until it has as many as asked."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((4000, 8)).astype(np.float32)
    index = ItemIndex(build_index("ivf", vectors, [vectors], len(vectors)), IndexSettings("ivf", 1), [7])
    rows = index.search(vectors[0], 3999)
    assert sorted(rows.tolist()) == [row for row in range(4000) if row != 7]


def test_commands_refuse_what_cannot_be(indexed: Artifact, tmp_path: Path) -> None:
    if indexed.name != "sasrec-3l":
        pytest.skip("one row is enough")
    said = rbserve("export", "--model", str(indexed.path), "--index", "hnws", home=tmp_path, check=2).stderr
    assert "unknown index: hnws" in said
    assert "did you mean hnsw?" in said
    said = rbserve(
        "export", "--model", str(indexed.path), "--index", "ivf", "--recall", "2", home=tmp_path, check=2
    ).stderr
    assert "--recall must be above 0 and at most 1, not 2" in said
    for row in ("sid-sasrec-3l", "itemknn", "gdcn"):
        for command in ("export", "profile"):
            said = rbserve(command, "--model", row, "--index", "hnsw", home=tmp_path, check=2).stderr
            assert f"{row} cannot be exported in hnsw: an index searches a ranking that is a product" in said


def test_an_artefact_without_the_index_says_how_to_make_it(indexed: Artifact, tmp_path: Path) -> None:
    copy = shutil.copytree(indexed.path, tmp_path / indexed.name)
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["variants"]["faiss-ivf"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match=r"faiss-ivf of .* is not exported") as raised:
        open_ranker(open_artifact(copy), "faiss-ivf")
    assert raised.value.hint is not None
    assert "--index ivf" in raised.value.hint


def test_a_server_answers_through_the_index(indexed: Artifact) -> None:
    service = open_service(indexed, "faiss-ivf", 1)
    service.warm_up(Limits(), indexed.checks("faiss-ivf"))
    history = np.array([3, 1, 2], np.int32)
    answer = service.work(Top(history, 5, True))
    exact = recommend(open_ranker(indexed, "onnx-fp32"), history, 5, exclude_seen=True)
    np.testing.assert_array_equal(answer.items, exact[0])


def test_a_profile_has_the_recall_beside_latency_and_memory(
    indexed: Artifact, shop: Dataset, tmp_path: Path
) -> None:
    if indexed.name != "sasrec-3l":
        pytest.skip("one row is enough")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/planted").symlink_to(shop.path)
    options = ("--processes", "1", "--runs", "5", "--test-users", "20", "--slates", "10", "--no-cost")
    done = rbserve(
        "profile", "--model", str(indexed.path), "--variants", "onnx-fp32", "--index", "hnsw", *options, "--json",
        home=tmp_path,
    )  # fmt: skip
    profiled = json.loads(done.stdout)
    by_variant = {result["variant"]: result for result in profiled["results"]}
    assert by_variant.keys() == {"onnx-fp32", "faiss-hnsw"}
    run = read_measurement(next((tmp_path / "runs").glob("*.json")))
    assert run.predictions.exact_recall.keys() == {"faiss-hnsw"}
    assert run.predictions.exact_recall["faiss-hnsw"][10] > 0.9
    point = next(point for point in points_of(run) if point.variant == "faiss-hnsw")
    assert point_record(point)["exact_recall_10"] == run.predictions.exact_recall["faiss-hnsw"][10]


def test_a_smaller_recall_takes_less_effort() -> None:
    """Shares that grow with effort, up to what the breadth allows."""
    shares = {1: 0.8, 4: 0.95, 16: 1.0}

    def share(settings: IndexSettings) -> float:
        return min(shares[settings.breadth], 0.6 + 0.01 * settings.effort)

    assert tuned("ivf-pq", share, 0.75, 512) == IndexSettings("ivf-pq", 16, 1)
    assert tuned("ivf-pq", share, 0.90, 512) == IndexSettings("ivf-pq", 32, 4)
    assert tuned("ivf-pq", share, 0.99, 512).breadth == 16
    assert tuned("hnsw", lambda _: 0.3, 0.99, 1 << 20) == IndexSettings("hnsw", 16)
