"""Tensors of requests are filled from the columns of a table."""

import numpy as np
import pytest

from rbserve.core.requests import SLATE, TEXT, TensorSpec
from rbserve.data.request_set import tensor_of

LIKES, SHOWS = np.array([3.0, 4.0]), np.array([10, 20])


def test_columns_stand_side_by_side_in_a_tensor_of_features() -> None:
    features = TensorSpec("x", "float32", [SLATE, 2], ["likes", "shows"])
    tensor = tensor_of(features, [LIKES, SHOWS], 2)
    assert tensor.dtype == np.float32
    assert tensor.tolist() == [[3, 10], [4, 20]]


@pytest.mark.parametrize(
    ("dims", "shape"),
    [([SLATE], (2,)), ([SLATE, 1], (2, 1)), ([1, SLATE], (1, 2)), ([1, SLATE, 1], (1, 2, 1))],
)
def test_a_column_takes_the_dimensions_of_its_tensor(dims: list[int | str], shape: tuple[int, ...]) -> None:
    assert tensor_of(TensorSpec("x", "int64", dims, ["shows"]), [SHOWS], 2).shape == shape


def test_a_value_of_the_request_is_repeated_for_each_candidate() -> None:
    tensor = tensor_of(TensorSpec("age", "float32", [SLATE, 1], ["age"]), [np.array(7.0)], 3)
    assert tensor.tolist() == [[7], [7], [7]]


def test_values_of_the_request_and_of_candidates_stand_side_by_side() -> None:
    tensor = tensor_of(TensorSpec("x", "float32", [SLATE, 2], ["age", "likes"]), [np.array(7.0), LIKES], 2)
    assert tensor.tolist() == [[7, 3], [7, 4]]


@pytest.mark.parametrize(("dims", "shape"), [(["T"], (4,)), ([1, "T"], (1, 4))])
def test_a_list_of_the_request_has_its_own_length(dims: list[int | str], shape: tuple[int, ...]) -> None:
    history = np.array([5, 6, 7, 8])
    assert tensor_of(TensorSpec("history", "int32", dims, ["history"]), [history], 2).shape == shape


def test_texts_stay_texts() -> None:
    titles = np.array(["Alien", "Brazil"], object)
    assert tensor_of(TensorSpec("title", TEXT, [SLATE], ["title"]), [titles], 2).tolist() == [
        "Alien",
        "Brazil",
    ]


def test_values_that_do_not_fill_the_dimensions_are_an_error() -> None:
    with pytest.raises(ValueError, match="reshape"):
        tensor_of(TensorSpec("x", "float32", [SLATE, 3], ["likes"]), [LIKES], 2)


def test_a_value_of_the_request_stays_a_scalar() -> None:
    tensor = tensor_of(TensorSpec("age", "float32", [], ["age"]), [np.array(7.0)], 3)
    assert (tensor.shape, tensor.tolist()) == ((), 7.0)
