"""Training rows are packed behind the history that they share, whatever their order."""

from __future__ import annotations

import numpy as np

from rbserve.data.columns import Ragged
from rbserve.data.dataset import CtrSplit, Dataset
from rbserve.models.zoo import find_model
from rbserve.train.tasks.ctr import SoftRows, make
from rbserve.train.tasks.packing import Packs


def split() -> CtrSplit:
    """Five rows: two users of two rows each, with one history; one of them has another row, with another history."""
    histories = [[1, 2], [1, 2], [1, 2], [1, 2], [3]]
    values = np.array([item for history in histories for item in history], np.int32)
    offsets = np.cumsum([0, *map(len, histories)])
    return CtrSplit(
        np.array([4, 4, 6, 6, 6], np.int32), np.arange(5, dtype=np.int32), np.zeros(5, np.int8),
        Ragged(values, offsets),
    )  # fmt: skip


def test_rows_of_a_user_with_one_history_are_a_pack() -> None:
    packs = Packs.of(split(), np.arange(5))
    assert [packs.rows(np.array([pack])).tolist() for pack in range(len(packs))] == [[0, 1], [2, 3], [4]]
    assert packs.rows(np.array([2, 0])).tolist() == [4, 0, 1]
    assert packs.rows(np.array([], np.int64)).tolist() == []


def test_pairs_of_a_lesson_join_the_rows_of_their_user() -> None:
    packs = Packs.of(split(), np.array([0, 1, 2, 3, 4, 0, 2, 2]))
    assert [packs.rows(np.array([pack])).tolist() for pack in range(len(packs))] == [
        [0, 1, 5],
        [2, 3, 6, 7],
        [4],
    ]


def test_the_loop_draws_packs_and_the_loss_is_that_of_their_rows(planted: Dataset) -> None:
    import torch

    spec = find_model("din-emb")
    train = planted.ctr("train")
    soft = SoftRows(
        train, np.array([0, 7, 0]), train.candidates[[1, 7, 2]], np.array([0.2, 0.9, 0.4], np.float32)
    )
    model, task = make(spec, planted, lambda *_: None, soft)
    model.eval()
    with torch.inference_mode():
        single = [float(task.loss(model, np.array([pack]))) for pack in range(task.rows)]
        whole = float(task.loss(model, np.arange(task.rows)))
    assert len(single) == 2
    np.testing.assert_allclose(sum(single), whole, rtol=1e-5)
