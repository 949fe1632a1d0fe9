"""Distillation: which pairs a teacher scores, scores that go on after a stop, soft labels, students that learn."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from small_backbone import make_backbone

from rbserve.core.distillation import check_student, check_teacher
from rbserve.core.errors import Interrupted, UsageError
from rbserve.core.options import with_options
from rbserve.core.requests import Request
from rbserve.core.settings import Teaching
from rbserve.core.types import ModelSpec, Scorer, Scores
from rbserve.data.artifact import Artifact
from rbserve.data.columns import Ragged
from rbserve.data.dataset import CtrSplit, Dataset
from rbserve.exporters.export import export
from rbserve.models.configs import CtrConfig
from rbserve.models.zoo import BEYOND, MODELS, find_model
from rbserve.runtimes.evaluate import score_rows
from rbserve.runtimes.opening import open_scorer
from rbserve.stats.pairwise import auc
from rbserve.train.distill import teacher as teaching_module
from rbserve.train.distill.lesson import calibrate, prepare_lesson
from rbserve.train.distill.teacher import PIECE, describe_work, draw_slates, score_slates
from rbserve.train.fit import train
from rbserve.train.fitting.loop import Settings
from rbserve.train.tasks.ctr import CtrTask, make

SEED = 2024


def small(name: str) -> ModelSpec:
    spec = find_model(name)
    return dataclasses.replace(spec, config=with_options(spec.config, {"dim": 16, "hidden": "64,32"}))


# ---- The slates that a teacher scores ----


def test_unlabelled_pairs_are_of_training_users_and_new_to_them(planted: Dataset) -> None:
    rows = planted.ctr("train")
    slates = draw_slates(rows, pairs=6, seed=SEED)
    others = np.union1d(planted.ctr("test").users, planted.ctr("valid").users)
    assert slates.users == len(np.unique(rows.users))
    drawn_for: list[int] = []
    for slate in range(len(slates)):
        user, items = int(rows.users[slates.begins[slate]]), slates.unlabelled[slate]
        drawn_for += [user] * len(items)
        mine = rows.users == user
        assert user not in others
        assert len(np.unique(items)) == len(items) <= 6
        assert not np.isin(items, rows.candidates[mine]).any()
        assert not np.isin(items, slates.history(slate)).any()
        assert np.isin(items, rows.candidates).all(), (
            "items that no training row has keep their blank vectors"
        )
    counts = np.unique_counts(np.array(drawn_for)).counts
    assert counts.max() == 6
    assert counts.mean() > 5.9


def test_every_training_row_is_asked_about_once(planted: Dataset) -> None:
    slates = draw_slates(planted.ctr("train"), pairs=0, seed=SEED)
    spans = [np.arange(begin, end) for begin, end in zip(slates.begins, slates.ends, strict=True)]
    np.testing.assert_array_equal(np.sort(np.concatenate(spans)), np.arange(len(planted.ctr("train"))))
    assert not len(slates.unlabelled.values)


def test_a_user_with_several_histories_gets_his_pairs_with_the_last() -> None:
    histories = Ragged(np.array([1, 1, 2, 3], np.int32), np.array([0, 1, 3, 3, 4]))
    users, labels = np.array([7, 7, 8, 9], np.int32), np.array([1, 0, 1, 0], np.int8)
    slates = draw_slates(CtrSplit(users, np.array([4, 5, 6, 4], np.int32), labels, histories), 9, SEED)
    found = {
        (int(users[begin]), int(begin)): sorted(slates.unlabelled[slate].tolist())
        for slate, begin in enumerate(slates.begins.tolist())
    }
    assert found == {(7, 0): [], (7, 1): [6], (8, 2): [4, 5], (9, 3): [5, 6]}


def test_the_seed_draws_users_and_pairs(planted: Dataset) -> None:
    rows = planted.ctr("train")
    one, again, other = (draw_slates(rows, 4, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.unlabelled.values, again.unlabelled.values)
    assert not np.array_equal(one.begins, other.begins)
    few = draw_slates(rows, 4, 1, users=50)
    assert few.users == 50
    np.testing.assert_array_equal(few.begins, one.begins[: len(few)])
    np.testing.assert_array_equal(few.unlabelled.values, one.unlabelled.values[: len(few.unlabelled.values)])


# ---- The teacher's scores ----


def test_scores_are_those_of_the_one_call_path(trained: Artifact, planted: Dataset, tmp_path: Path) -> None:
    slates = draw_slates(planted.ctr("train"), 3, SEED, users=40)
    found = score_slates(trained, "onnx-fp32", slates, tmp_path)
    owners = np.repeat(slates.begins, slates.sizes)
    candidates = np.concatenate([slates.candidates(slate) for slate in range(len(slates))])
    alone = score_rows(
        open_scorer(trained, "torch-fp32"), planted.ctr("train").histories.take(owners), candidates
    )
    np.testing.assert_allclose(found, alone, atol=1e-5, rtol=0)


class Stopping:
    """A scorer that is interrupted at a call."""

    def __init__(self, scorer: Scorer, calls: int) -> None:
        self._scorer, self.left = scorer, calls

    def score(self, request: Request) -> Scores:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return self._scorer.score(request)


def test_stopped_scoring_goes_on_to_the_same_bytes(
    trained: Artifact, planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slates = draw_slates(planted.ctr("train"), 3, SEED)
    whole = score_slates(trained, "onnx-fp32", slates, tmp_path / "whole")
    calls = 3 * PIECE + 5
    with monkeypatch.context() as patch:
        patch.setattr(
            teaching_module, "open_scorer", lambda *_: Stopping(open_scorer(trained, "onnx-fp32"), calls)
        )
        with pytest.raises(Interrupted, match="stopped after"):
            score_slates(trained, "onnx-fp32", slates, tmp_path / "stopped")
    assert len(list((tmp_path / "stopped").iterdir())) == 3
    assert "were scored before" in describe_work(trained, "onnx-fp32", slates, tmp_path / "stopped")
    (tmp_path / "stopped" / "000001.npy").write_bytes(b"cut short")
    np.testing.assert_array_equal(score_slates(trained, "onnx-fp32", slates, tmp_path / "stopped"), whole)
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "stopped" / file.name).read_bytes() == file.read_bytes()


def test_more_users_continue_what_fewer_began(
    trained: Artifact, planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_rows = planted.ctr("train")
    few = draw_slates(train_rows, 3, SEED, users=5)
    score_slates(trained, "onnx-fp32", few, tmp_path / "grown")
    more = draw_slates(train_rows, 3, SEED, users=15)
    counted = Stopping(open_scorer(trained, "onnx-fp32"), calls=10**9)
    with monkeypatch.context() as patch:
        patch.setattr(teaching_module, "open_scorer", lambda *_: counted)
        grown = score_slates(trained, "onnx-fp32", more, tmp_path / "grown")
    assert 10**9 - counted.left == len(more) - len(few) // PIECE * PIECE
    np.testing.assert_array_equal(grown, score_slates(trained, "onnx-fp32", more, tmp_path / "whole"))
    fewer = score_slates(trained, "onnx-fp32", few, tmp_path / "grown")
    np.testing.assert_array_equal(fewer, grown[: len(fewer)])


# ---- Soft labels ----


def test_calibration_is_logistic_regression_on_platts_targets() -> None:
    rng = np.random.default_rng(1)
    odds = rng.normal(3, 2, 500)
    labels = (rng.random(500) < 1 / (1 + np.exp(-(0.4 * odds - 2)))).astype(np.int8)
    slope, intercept = calibrate(odds, labels)
    hits, misses = labels.sum(), len(labels) - labels.sum()
    wanted = np.where(labels, (hits + 1) / (hits + 2), 1 / (misses + 2))
    oracle = LogisticRegression(C=math.inf, tol=1e-10).fit(
        np.tile(odds, 2)[:, None], np.repeat([1, 0], 500), sample_weight=np.concatenate((wanted, 1 - wanted))
    )
    assert (slope, intercept) == pytest.approx((oracle.coef_[0, 0], oracle.intercept_[0]), abs=1e-4)


def test_calibration_of_classes_that_are_apart_is_finite() -> None:
    odds = np.array([-9.0, -8.0, 8.0, 9.0])
    slope, intercept = calibrate(odds, np.array([0, 0, 1, 1], np.int8))
    assert 0 < slope < 1
    assert abs(intercept) < 1


def test_the_loss_is_cross_entropy_against_the_soft_labels(
    trained: Artifact, planted: Dataset, tmp_path: Path
) -> None:
    teaching = Teaching(pairs=3, alpha=0.3, teacher_users=60)
    lesson = prepare_lesson(trained, "dnn", planted, teaching, SEED, tmp_path)
    rows, record = lesson.rows, lesson.record
    labelled = planted.ctr("train")
    scores = score_rows(
        open_scorer(trained, "onnx-fp32"), rows.split.histories.take(rows.owners), rows.candidates
    ).astype(np.float64)
    odds = record.slope * np.log(scores / (1 - scores)) + record.intercept
    teacher = 1 / (1 + np.exp(-odds))
    slates = np.isin(labelled.users, labelled.users[rows.owners[len(labelled) :]])
    assert len(np.unique(labelled.users[slates])) == 60
    mixed = np.where(slates, 0.3 * teacher[: len(labelled)] + 0.7 * labelled.labels, labelled.labels)
    wanted = np.concatenate((mixed, teacher[len(labelled) :]))
    np.testing.assert_allclose(rows.labels, wanted, atol=1e-4)
    assert (record.labelled, record.unlabelled) == (slates.sum(), len(rows) - len(labelled))

    model, task = make(small("dnn"), planted, lambda *_: None, rows)
    some = np.linspace(0, len(rows) - 1, 90).astype(int)
    model.eval()
    with torch.inference_mode():
        loss = float(task.loss(model, some))
        batch = rows.take(some)
        chances = np.concatenate([
            model.score(torch.tensor(batch.histories[row]), torch.tensor(batch.candidates[row : row + 1])).numpy()
            for row in range(len(batch))
        ])  # fmt: skip
    target = rows.labels[some]
    assert loss == pytest.approx(
        -np.sum(target * np.log(chances) + (1 - target) * np.log(1 - chances)), rel=1e-4
    )


def test_validation_knows_the_true_labels_alone(trained: Artifact, planted: Dataset, tmp_path: Path) -> None:
    lesson = prepare_lesson(trained, "dnn", planted, Teaching(pairs=2), SEED, tmp_path)
    model, task = make(small("dnn"), planted, lambda *_: None, lesson.rows)
    with torch.inference_mode():
        assert task.validate(model.eval()) == CtrTask(planted).validate(model)


# ---- Students ----


@pytest.fixture(scope="module")
def student(trained: Artifact, planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Taught by scores alone: of no label but those that the teacher's log-odds are fitted to."""
    folder = tmp_path_factory.mktemp("students")
    lesson = prepare_lesson(trained, "gdcn", planted, Teaching(pairs=20, alpha=1.0), SEED, folder / "scores")
    settings = Settings(batch=500, micro_batch=500, lr=5e-3, epochs=8)
    spec = dataclasses.replace(small("gdcn"), name="gdcn-from-dnn")
    return export(train(spec, planted, folder / spec.name, settings, lesson=lesson), planted)


def test_a_student_learns_to_rank_like_its_teacher(
    student: Artifact, trained: Artifact, planted: Dataset
) -> None:
    test = planted.ctr("test")
    taught, teacher = (
        score_rows(open_scorer(one, "onnx-fp32"), test.histories, test.candidates)
        for one in (student, trained)
    )
    assert auc(test.labels, taught) > 0.8
    assert spearmanr(taught, teacher).statistic > 0.8


@pytest.mark.parametrize("name", ["bst-emb", "item-smollm2-135m"])
def test_a_student_that_reads_histories_in_order_learns_too(
    trained: Artifact, planted: Dataset, tmp_path: Path, name: str
) -> None:
    lesson = prepare_lesson(trained, name, planted, Teaching(pairs=10, alpha=1.0), SEED, tmp_path / "scores")
    spec = small(name)
    if name.startswith("item-"):
        layers = {
            "backbone": str(make_backbone("llama", tmp_path / "llama")),
            "layers": "2",
            "layers_rate": "1",
        }
        spec = dataclasses.replace(spec, config=with_options(spec.config, layers))
    spec = dataclasses.replace(spec, name=f"{name}-from-dnn")
    settings = Settings(batch=100, micro_batch=100, lr=3e-3, epochs=4)
    student = train(spec, planted, tmp_path / spec.name, settings, lesson=lesson)
    test = planted.ctr("test")
    taught, teacher = (
        score_rows(open_scorer(one, "torch-fp32"), test.histories, test.candidates)
        for one in (student, trained)
    )
    assert auc(test.labels, taught) > 0.8
    assert spearmanr(taught, teacher).statistic > 0.8


def test_a_students_manifest_names_its_teacher(student: Artifact, trained: Artifact) -> None:
    record = student.manifest.training.distilled
    assert record is not None
    assert (student.name, student.manifest.group) == ("gdcn-from-dnn", "A")
    assert (record.student, record.teacher, record.variant) == ("gdcn", "dnn", "onnx-fp32")
    assert (record.pairs, record.alpha, record.teacher_digest) == (20, 1.0, trained.model_digest)
    assert record.changed == {"alpha": "1"}


def test_a_digest_of_a_model_does_not_know_what_was_exported(trained: Artifact) -> None:
    manifest = msgspec.structs.replace(trained.manifest, variants={})
    bare = {name: one for name, one in manifest.files.items() if not name.startswith("onnx/")}
    alone = Artifact(trained.path, msgspec.structs.replace(manifest, files=bare))
    assert alone.model_digest == trained.model_digest


def test_an_interrupted_student_is_not_continued_with_another_lesson(
    trained: Artifact, planted: Dataset, tmp_path: Path
) -> None:
    from rbserve.train.fit import _identity

    lessons = [
        prepare_lesson(trained, "dnn", planted, Teaching(pairs=2, alpha=alpha), SEED, tmp_path)
        for alpha in (0.2, 0.4)
    ]
    one, other = (
        _identity(small("dnn"), planted, Settings(), Settings(), lesson, None) for lesson in lessons
    )
    assert one != other


# ---- What cannot be ----


def test_students_are_the_networks_that_score_pairs() -> None:
    for spec in (*MODELS, *BEYOND):
        if isinstance(spec.config, CtrConfig):
            check_student(spec)
        else:
            with pytest.raises(
                UsageError, match=r"cannot be a student: it(s trees| is a language model| ranks)"
            ):
                check_student(spec)


@pytest.mark.parametrize(
    ("task", "kind", "random", "reason"),
    [
        ("seqrec", "sasrec", False, "names the next item"),
        ("ctr", "endpoint", False, "is paid for every pair"),
        ("ctr", "text", True, "weights are random"),
    ],
)
def test_what_cannot_teach_is_refused_with_the_reason(
    task: str, kind: str, random: bool, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        check_teacher("x", task, kind, random)


def test_a_teacher_of_other_data_is_refused(trained: Artifact, planted: Dataset, tmp_path: Path) -> None:
    reference = msgspec.structs.replace(trained.manifest.dataset, fingerprint="0" * 64)
    other = Artifact(trained.path, msgspec.structs.replace(trained.manifest, dataset=reference))
    with pytest.raises(UsageError, match="was made from data 000000000000"):
        prepare_lesson(other, "dnn", planted, Teaching(), SEED, tmp_path)


def test_a_teacher_that_knows_no_better_than_chance_is_refused(
    trained: Artifact, planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Contrary:
        def score(self, request: Request) -> Scores:
            return 1 - open_scorer(trained, "onnx-fp32").score(request)

    monkeypatch.setattr(teaching_module, "open_scorer", lambda *_: Contrary())
    with pytest.raises(UsageError, match="nothing to teach"):
        prepare_lesson(trained, "dnn", planted, Teaching(pairs=1, teacher_users=40), SEED, tmp_path)


def test_an_unknown_variant_is_refused_also_where_scores_are_kept(
    trained: Artifact, planted: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="unknown variant of dnn: onnx-int2"):
        prepare_lesson(trained, "dnn", planted, Teaching(), SEED, tmp_path, variant="onnx-int2")


@pytest.mark.parametrize(
    "wrong",
    [{"pairs": -1}, {"alpha": 1.5}, {"alpha": math.nan}, {"teacher_users": -2}, {"pairs": 0, "alpha": 0}],
)
def test_options_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Teaching(**wrong)  # type: ignore[arg-type]
