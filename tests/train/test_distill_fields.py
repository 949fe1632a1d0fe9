"""A student and a teacher that read fields, and a training that is continued with fields."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from field_dataset import train_with_fields, with_fields

from rbserve.core.errors import UsageError
from rbserve.core.fields import COUNTED
from rbserve.core.options import with_options
from rbserve.core.requests import row_request
from rbserve.core.settings import Teaching
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset
from rbserve.models.zoo import find_model
from rbserve.runtimes.evaluate import score_rows
from rbserve.runtimes.opening import open_scorer
from rbserve.stats.pairwise import auc
from rbserve.train.counting import PARTS, counted_features, pair_features
from rbserve.train.distill.lesson import prepare_lesson
from rbserve.train.distill.teacher import count_pairs, draw_slates, score_slates
from rbserve.train.fit import train
from rbserve.train.fitting.loop import Settings
from rbserve.train.tasks.ctr import make
from rbserve.train.tasks.warm_start import WarmStart

FIELDS = "own,likes,shows,together_sum"


@pytest.fixture(scope="module")
def dataset(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return with_fields(planted, tmp_path_factory.mktemp("data") / "withfields")


@pytest.fixture(scope="module")
def teacher(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A small DNN that reads every field."""
    return train_with_fields("dnn", dataset, tmp_path_factory.mktemp("artifacts") / "dnn", FIELDS)


def test_pairs_of_training_rows_are_counted_without_their_user(dataset: Dataset) -> None:
    counted, train_rows = counted_features(dataset, None), dataset.ctr("train")
    rows = np.arange(0, len(train_rows), 7)
    again = pair_features(dataset, counted, rows, train_rows.candidates[rows])
    np.testing.assert_array_equal(again, counted.features("train")[rows])
    others = np.random.default_rng(0).integers(len(dataset.items), size=len(rows), dtype=np.int32)
    likes = pair_features(dataset, counted, rows, others)[:, counted.manifest.names.index("likes")]
    parts = train_rows.users % PARTS
    for part in range(PARTS):
        known = parts != part
        expected = np.bincount(train_rows.candidates[known], train_rows.labels[known], len(dataset.items))
        own = parts[rows] == part
        np.testing.assert_array_equal(likes[own], expected[others[own]])


def test_a_teacher_is_asked_with_the_fields_of_the_rows(dataset: Dataset, teacher: Artifact) -> None:
    rows = dataset.ctr("train")
    slates = draw_slates(rows, 3, seed=1, users=5)
    for slate in range(len(slates)):
        begin, end = int(slates.begins[slate]), int(slates.ends[slate])
        known = row_request(rows.histories[begin], rows.candidates[begin:end], rows.extras, begin, end)
        request = slates.request(slate, has_fields=True)
        for name in ("user.country", "context.hour"):
            np.testing.assert_array_equal(request[name][: len(known[name])], known[name])
        assert len(request["context.hour"]) == len(request["candidates"])
        assert len(request["user.country"]) == 1


def test_a_teacher_does_not_count_the_users_own_rows(
    dataset: Dataset, teacher: Artifact, tmp_path: Path
) -> None:
    rows, counted = dataset.ctr("train"), counted_features(dataset, None)
    columns = [counted.manifest.names.index(spec.name) for spec in teacher.layout.counted]
    plain = draw_slates(rows, 3, seed=1, users=12)
    slates = count_pairs(teacher, dataset, plain, lambda *_: None)
    labelled = rows.candidates[slates.pair_rows] == np.concatenate(
        [slates.candidates(slate) for slate in range(len(slates))]
    )
    assert slates.counted is not None
    own = slates.pair_rows[labelled]
    np.testing.assert_array_equal(slates.counted[labelled], counted.features("train")[own][:, columns])
    found = score_slates(teacher, "torch-fp32", slates, tmp_path / "own")
    extras = {name: column[own] for name, column in rows.extras.items()}
    extras[COUNTED] = counted.features("train")[own][:, columns]
    scorer = open_scorer(teacher, "torch-fp32")
    expected = score_rows(scorer, rows.histories.take(own), rows.candidates[own], extras)
    np.testing.assert_allclose(found[labelled], expected, rtol=1e-5)
    by_all = score_slates(teacher, "torch-fp32", plain, tmp_path / "all")
    assert not np.allclose(found, by_all, rtol=1e-3), (
        "the counts of all training rows have the users' own rows"
    )


def test_a_lesson_of_a_teacher_with_counts_has_those_scores(
    dataset: Dataset, teacher: Artifact, tmp_path: Path
) -> None:
    teaching = Teaching(pairs=2, teacher_users=9, alpha=1.0)
    lesson = prepare_lesson(teacher, "dnn", dataset, teaching, 1, tmp_path)
    slates = count_pairs(teacher, dataset, draw_slates(dataset.ctr("train"), 2, 1, 9), lambda *_: None)
    (folder,) = tmp_path.iterdir()
    saved = np.concatenate([np.load(file) for file in sorted(folder.iterdir())])
    expected = score_slates(teacher, lesson.record.variant, slates, tmp_path / "again")
    np.testing.assert_allclose(saved, expected, rtol=1e-5)


def test_a_student_reads_the_fields_of_its_pairs(dataset: Dataset, teacher: Artifact, tmp_path: Path) -> None:
    spec = find_model("dnn")
    options = {"dim": "16", "hidden": "64,32", "fields": FIELDS}
    spec = dataclasses.replace(spec, name="dnn-from-dnn", config=with_options(spec.config, options))
    lesson = prepare_lesson(teacher, "dnn", dataset, Teaching(pairs=2), 1, tmp_path / "scores")
    _, task = make(spec, dataset, lambda *_: None, lesson.rows)
    extras, owners = task._train.extras, lesson.rows.owners
    rows = dataset.ctr("train")
    np.testing.assert_array_equal(extras["context.hour"], rows.extras["context.hour"][owners])
    counted = counted_features(dataset, None)
    np.testing.assert_array_equal(extras[COUNTED][: len(rows)], counted.features("train"))
    settings = Settings(batch=500, micro_batch=500, lr=5e-3, epochs=3)
    student = train(spec, dataset, tmp_path / spec.name, settings, lesson=lesson)
    test = dataset.ctr("test")
    scores = score_rows(open_scorer(student, "torch-fp32"), test.histories, test.candidates, test.extras)
    assert auc(test.labels, scores) > 0.7


def test_a_training_with_fields_continues_where_the_fields_are_the_same(
    dataset: Dataset, teacher: Artifact, tmp_path: Path
) -> None:
    settings = Settings(batch=500, micro_batch=500, epochs=1)
    spec = dataclasses.replace(find_model("dnn"), config=teacher_config(teacher))
    continued = train(spec, dataset, tmp_path / "dnn", settings, init=teacher)
    assert continued.layout == teacher.layout
    start, fields = WarmStart(teacher, dataset), teacher.layout.fields
    with pytest.raises(UsageError, match="reads other fields"):
        start.require_fields(dataclasses.replace(teacher.layout, fields=fields[1:]))


def test_a_field_with_other_values_is_not_continued(
    planted: Dataset, teacher: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import field_dataset

    monkeypatch.setitem(field_dataset.VALUES, "country", ("FR", "DE", "3"))
    other = with_fields(planted, tmp_path / "other")
    with pytest.raises(UsageError, match="field country has other values"):
        WarmStart(teacher, other).require_fields(teacher.layout)


def teacher_config(teacher: Artifact) -> object:
    from rbserve.models.configs import config_from_dict

    return config_from_dict(teacher.manifest.config_kind, teacher.manifest.config)
