"""Items that are added to a model that reads fields: their fields, their lack of counts, and what stays as it was."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from adopted_app import asker
from field_dataset import train_with_fields, with_fields

from rbserve.core.errors import UsageError
from rbserve.core.fields import CODES, FIRST, MISSING, NUMBERS, UNSEEN
from rbserve.core.requests import slate_request
from rbserve.data.artifact import Artifact, open_artifact
from rbserve.data.dataset import Dataset
from rbserve.exporters.export import export
from rbserve.features.opening import open_maker
from rbserve.pipeline.items import add_items, retire_items
from rbserve.runtimes.evaluate import score_rows
from rbserve.runtimes.opening import open_scorer
from rbserve.server.api.options import Limits
from rbserve.server.scoring.models import Models
from rbserve.server.scoring.reload import open_service

TABLE = (
    'item_id,title,price,tags\nf0,topic1word2,2.5,"blue|never seen"\nf1,topic0word1,,\nf0,topic1word1,9,red\n'
)
FIELDS = "own,likes,like_rate,together_sum"


@pytest.fixture(scope="module")
def dataset(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return with_fields(planted, tmp_path_factory.mktemp("data") / "withfields")


@pytest.fixture(scope="module", params=["dnn-text", "gbdt"])
def made(
    request: pytest.FixtureRequest, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    if request.param == "gbdt":
        pytest.importorskip("lightgbm")
    folder = tmp_path_factory.mktemp("artifacts")
    trained = train_with_fields(request.param, dataset, folder / request.param, FIELDS, epochs=1)
    return export(trained, dataset, precisions=["fp32"])


@pytest.fixture
def copy(made: Artifact, tmp_path: Path) -> Artifact:
    shutil.copytree(made.path, tmp_path / made.name)
    return open_artifact(tmp_path / made.name)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "new.csv"
    path.write_text(TABLE)
    return path


def test_a_new_item_has_the_fields_of_the_table_and_no_counts(
    copy: Artifact, dataset: Dataset, table: Path
) -> None:
    test = dataset.ctr("test")

    def scores(artifact: Artifact) -> np.ndarray:
        scorer = open_scorer(artifact, "onnx-fp32")
        return score_rows(scorer, test.histories, test.candidates, test.extras)

    before = scores(copy)
    changed = add_items(copy, table, "item_id", "title", fields=["price", "tags"])
    assert (changed.added, changed.repeated) == (2, 1)
    grown = open_artifact(copy.path)
    np.testing.assert_array_equal(scores(grown), before)
    rows, history = grown.items.lookup(["f0", "f1"]), np.array([0, 1], np.int32)
    tensors = open_maker(grown).tensors(slate_request(history, rows))
    numbers = dict(zip((spec.name for spec in grown.layout.numbers), tensors[NUMBERS].T, strict=True))
    np.testing.assert_array_equal(numbers["price"], np.array([2.5, np.nan], np.float32))
    assert numbers["like_rate"].tolist() == [0.5, 0.5]
    assert numbers["likes"].tolist() == numbers["together_sum"].tolist() == [0, 0]
    tags = [spec.name for spec in grown.layout.codes].index("tags")
    assert tensors[CODES][:, tags : tags + 2].tolist() == [[FIRST + 2, UNSEEN], [MISSING, MISSING]]
    assert np.isfinite(open_scorer(grown, "onnx-fp32").score(slate_request(history, rows))).all()


def test_a_text_with_fields_scores_like_the_item_that_has_them(
    copy: Artifact, dataset: Dataset, table: Path
) -> None:
    ids, further = [*dataset.items.ids], {"user": {"country": "FR"}, "context": {"hour": [7, 8, 9]}}

    def scores(artifact: Artifact, *new: object) -> list[float]:
        service = open_service(artifact, "onnx-fp32", 1)
        body = {"history": ids[:3], "candidates": [ids[5], *new], **further}
        answer = asker(Models([service]), Limits())("POST", "/v1/score", json=body)
        service.close()
        assert answer.status_code == 200, answer.text
        return [scored["score"] for scored in answer.json()["scores"]]

    sent = [
        {"text": "topic1word2", "fields": {"price": 2.5, "tags": ["blue", "purple"]}},
        {"text": "topic0word1", "id": "mine"},
    ]
    by_text = scores(copy, *sent)
    add_items(copy, table, "item_id", "title", fields=["price", "tags"])
    by_id = scores(open_artifact(copy.path), "f0", "f1")
    np.testing.assert_allclose(by_text, by_id, rtol=1e-6)
    assert len({*by_text}) == 3


def test_fields_of_a_text_that_a_model_cannot_take_are_refused(copy: Artifact, dataset: Dataset) -> None:
    service, ids = open_service(copy, "onnx-fp32", 1), dataset.items.ids
    ask = asker(Models([service]), Limits())

    def error(new: dict[str, object], history: list[object] | None = None) -> tuple[str, str]:
        body = {"history": history or [ids[0]], "candidates": [new]}
        refused = ask("POST", "/v1/score", json=body).json()["error"]
        return refused["code"], f"{refused['message']}; {refused['hint']}"

    assert error({"text": "a", "fields": {"colour": "red"}}) == (
        "unknown_field", f"{copy.name}: the model reads no field colour of items; it reads price, tags"
    )  # fmt: skip
    code, message = error({"text": "a", "fields": {"price": "cheap"}})
    assert (code, "takes a number, not 'cheap'" in message) == ("invalid_field", True)
    code, message = error({"text": "a"}, [{"text": "b", "fields": {"price": 1}}])
    assert (code, "no fields of items of the history" in message) == ("unknown_field", True)
    assert error({"text": "a", "fields": 3})[0] == "invalid_request"
    rerank = ask("POST", "/v1/rerank", json={"query": "a", "documents": ["b"]}).json()["error"]
    assert "it reads fields, which a document does not have" in rerank["message"]
    service.close()


def test_a_new_item_without_fields_is_served_and_can_be_retired(
    copy: Artifact, dataset: Dataset, table: Path
) -> None:
    add_items(copy, table, "item_id", "title")
    grown = open_artifact(copy.path)
    service = open_service(grown, "onnx-fp32", 1)
    service.warm_up(Limits(max_history=20, max_candidates=20), grown.checks("onnx-fp32"))
    body = {"history": [*dataset.items.ids[:2], "f1"], "candidates": ["f0", dataset.items.ids[3]]}
    ask = asker(Models([service]), Limits())
    assert ask("POST", "/v1/score", json=body).status_code == 200
    service.close()
    retire_items(grown, ["f0"], "item_id")
    retired = open_artifact(copy.path)
    assert len(retired.items.retired) == 1
    assert open_maker(retired).layout == grown.layout


def test_a_value_that_a_field_cannot_have_and_an_unknown_field_change_nothing(
    copy: Artifact, table: Path
) -> None:
    before = (copy.path / "manifest.json").read_bytes()
    with pytest.raises(UsageError, match=r"unknown item field of .*: country"):
        add_items(copy, table, "item_id", "title", fields=["country"])
    table.write_text(TABLE.replace("2.5", "cheap"))
    with pytest.raises(UsageError, match="price of a new item is no number: 'cheap'"):
        add_items(copy, table, "item_id", "title", fields=["price"])
    assert (copy.path / "manifest.json").read_bytes() == before
