"""Errors that come from elsewhere, as ours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from rbserve.core.errors import OutOfMemory, RbserveError, UsageError, first_line, memory_told

HUGE = 2**50


def by_python() -> object:
    return bytearray(HUGE)


def by_numpy() -> object:
    return np.empty(HUGE)


def by_torch() -> object:
    return torch.empty(HUGE)


def by_onnxruntime() -> object:
    node = helper.make_node("ConstantOfShape", ["shape"], ["out"])
    shape = helper.make_tensor_value_info("shape", TensorProto.INT64, [1])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n"])
    model = helper.make_model(
        helper.make_graph([node], "huge", [shape], [out]), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"shape": np.array([HUGE])})


@pytest.mark.parametrize("allocate", [by_python, by_numpy, by_torch, by_onnxruntime])
def test_memory_that_cannot_be_had_is_one_line(allocate: Callable[[], object]) -> None:
    with (
        pytest.raises(OutOfMemory, match="out of memory while training dnn") as told,
        memory_told("training dnn", "a smaller --batch"),
    ):
        allocate()
    assert told.value.hint == "a smaller --batch"
    assert told.value.exit_code == 1


def test_the_innermost_work_is_named() -> None:
    with (
        pytest.raises(RbserveError, match="while exporting") as told,
        memory_told("working", "more memory"),
        memory_told("exporting", "a smaller row"),
    ):
        raise MemoryError
    assert told.value.hint == "a smaller row"


@pytest.mark.parametrize("other", [RuntimeError("shapes do not match"), UsageError("no"), OSError(2, "gone")])
def test_other_failures_stay_what_they_are(other: Exception) -> None:
    with pytest.raises(type(other)) as found, memory_told("training", "less"):
        raise other
    assert found.value is other


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a cause\nat a place"), "a cause"),
        (ValueError("\n  a cause"), "a cause"),
        (
            ValueError("a field is wrong:\n\n  TypeError: it is no number\nsee the manual"),
            "a field is wrong: TypeError: it is no number",
        ),
        (ValueError("a field is wrong:"), "a field is wrong:"),
        (ValueError(""), "ValueError"),
        (ValueError("\n"), "ValueError"),
    ],
)
def test_an_error_of_a_library_is_told_in_one_line(error: Exception, line: str) -> None:
    assert first_line(error) == line
