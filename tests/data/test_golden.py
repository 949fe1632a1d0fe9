"""What a variant answered when it was exported, and how it is told from another model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rbserve.core.errors import ArtifactError
from rbserve.core.requests import Request
from rbserve.core.types import Items, Scores
from rbserve.data.artifact import Artifact
from rbserve.data.golden import (
    Checks,
    GoldenAnswer,
    ranked_otherwise,
    read_checks,
    scored_otherwise,
    write_checks,
)
from rbserve.runtimes.opening import open_scorer

SCORED = Checks(1, 1e-3, [GoldenAnswer([1, 2], [3, 4], [0.5, 0.25]), GoldenAnswer([], [3], [0.125])])
RANKED = Checks(1, 1e-3, [GoldenAnswer([1], [*range(10)], [float(20 - one) for one in range(10)])])


def test_they_come_back_as_they_were_written(tmp_path: Path) -> None:
    write_checks(tmp_path / "checks.json", SCORED.checks, 1e-3)
    assert read_checks(tmp_path / "checks.json") == SCORED
    (tmp_path / "checks.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"checks\.json is not a variant's checks"):
        read_checks(tmp_path / "checks.json")


@pytest.mark.parametrize("variant", ["onnx-fp32", "onnx-int8"])
def test_an_export_keeps_what_its_file_answers(trained: Artifact, variant: str) -> None:
    checks = trained.checks(variant)
    assert checks
    assert len(checks.checks) == 4
    assert {len(one.items) for one in checks.checks} == {4}
    assert scored_otherwise(checks, open_scorer(trained, variant).score) is None
    assert trained.checks("torch-fp32") is None


def test_they_do_not_make_another_model_of_an_artefact(trained: Artifact) -> None:
    without = {**trained.manifest.files}
    for record in trained.manifest.variants.values():
        assert record.checks
        assert record.checks not in record.files, "scoring loads nothing of them"
        del without[record.checks]
    bare = Artifact(trained.path, type(trained.manifest)(**{
        **{name: getattr(trained.manifest, name) for name in trained.manifest.__struct_fields__},
        "files": {name: one for name, one in without.items() if not name.startswith("onnx/")}, "variants": {},
    }))  # fmt: skip
    assert bare.model_digest == trained.model_digest


def scores_of(*slates: list[float]) -> Callable[[Request], Scores]:
    left = iter(slates)

    def score(request: Request) -> Scores:
        del request
        return np.array(next(left), np.float32)

    return score


@pytest.mark.parametrize(
    ("slates", "said"),
    [
        ([[0.5, 0.25], [0.125]], None),
        ([[0.5005, 0.25], [0.1255]], None),
        ([[0.5, 0.25], [0.2]], "a score differs by 0.075, and 0.001 is allowed"),
        ([[0.4, 0.25], [0.125]], "a score differs by 0.1, and 0.001 is allowed"),
        ([[float("nan"), 0.25], [0.125]], "a score differs by nan, and 0.001 is allowed"),
    ],
)
def test_scores_may_differ_by_rounding(slates: list[list[float]], said: str | None) -> None:
    assert scored_otherwise(SCORED, scores_of(*slates)) == said


def ranking(items: list[int], by: float = 0.0) -> Callable[[Items, int], tuple[Items, Scores]]:
    def top_k(history: Items, k: int) -> tuple[Items, Scores]:
        del history
        return np.array(items[:k], np.int32), np.array([20 - one + by for one in items[:k]], np.float32)

    return top_k


@pytest.mark.parametrize(
    ("items", "by", "said"),
    [
        ([*range(10)], 0.0, None),
        ([*range(10)], 0.005, None),  # of scores near 20
        ([*range(8), 9, 8], 0.0, None),
        ([*range(8), 20, 21], 0.0, None),
        ([*range(7), 20, 21, 22], 0.0, "only 7 of 10 items are the best again"),
        ([*range(10)], 0.5, "a score differs by 0.5, and 0.001 is allowed"),
        ([], 0.0, "only 0 of 10 items are the best again"),
    ],
)
def test_lists_may_change_at_their_end(items: list[int], by: float, said: str | None) -> None:
    assert ranked_otherwise(RANKED, ranking(items, by)) == said
