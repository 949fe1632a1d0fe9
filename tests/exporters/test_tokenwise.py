"""Products with a scale for each token: what the nodes compute, and what a plan does for large features."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from rbserve.exporters.graph import OPSET
from rbserve.exporters.parity import expected_loss
from rbserve.exporters.quantize import LEVELS, SEVEN_BITS, quantise_outputs
from rbserve.exporters.tokenwise import Array, Recorder, TokenwiseProducts, plan_within
from rbserve.runtimes import session
from rbserve.stats.pairwise import auc


def computed(
    x: Array, weights: list[Array], smooth: Array | None, placed: Sequence[int] = ()
) -> tuple[list[Array], list[str]]:
    """x [M, K] times each of the weights [K, N], by the nodes, and these nodes' operators.

    The weights are placed in the order `placed`, which need not be the graph's. The usual kernel of this processor and
    the one that is exact on all compute the same.
    """
    tensors: dict[str, Array] = {}
    products = TokenwiseProducts(lambda name, array: tensors.update({name: array}))
    made = {
        number: products.nodes(
            helper.make_node("MatMul", ["x", f"w{number}"], [f"y{number}"], name=f"m{number}"),
            f"w{number}", weights[number], smooth)
        for number in placed or range(len(weights))
    }  # fmt: skip
    nodes = [*products.ordered(node for number in range(len(weights)) for node in made[number])]
    graph = helper.make_graph(
        nodes, "products", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, x.shape[1]])],
        [helper.make_tensor_value_info(f"y{one}", TensorProto.FLOAT, None) for one in range(len(weights))],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()])  # fmt: skip
    versions = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=versions, ir_version=8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "products.onnx"
        onnx.save(model, path)
        found, exact = (run_with_kernel(path, x, exact) for exact in (False, True))
    for usual, other in zip(found, exact, strict=True):
        np.testing.assert_array_equal(usual, other)
    return found, [node.op_type for node in nodes]


def run_with_kernel(path: Path, x: Array, exact: bool) -> list[Array]:
    """The outputs of a graph as the product opens it on a processor that needs the exact kernel, or does not."""
    with mock.patch.object(session, "saturates", return_value=exact):
        outputs: list[Array] = session.open_session(path, 1, eight_bits=True).run(None, {"x": x})
    return outputs


def rounding_bound(x: Array, weight: Array) -> Array:
    """What half a step an activation and half a step a weight may add to each number of x @ weight."""
    token = np.abs(x).max(axis=1, keepdims=True) / LEVELS
    output = np.abs(weight).max(axis=0) / SEVEN_BITS
    of_weights = (np.abs(x) @ np.full_like(weight, 0.51)) * output
    bound: Array = of_weights + 0.51 * token * (np.abs(weight) + output).sum(axis=0)
    return bound


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 9), features=st.integers(2, 70), outputs=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1), size=st.sampled_from([1e-4, 1.0, 1e4]),
)  # fmt: skip
def test_each_token_is_rounded_by_its_own_size(
    rows: int, features: int, outputs: int, seed: int, size: float
) -> None:
    """Half a step an activation and half a step a weight is all that may be lost, whatever stands in other rows.

    And a row alone has the product that it has among others.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, features)).astype(np.float32)
    x[0] *= size
    weight = rng.normal(size=(features, outputs)).astype(np.float32)
    (found,), _ = computed(x, [weight], None)
    (alone,), _ = computed(x[-1:], [weight], None)
    np.testing.assert_array_equal(alone, found[-1:])
    most = rounding_bound(x, weight)
    assert (np.abs(found - x.astype(np.float64) @ weight) <= most + 1e-9).all()


def test_an_input_of_two_products_is_rounded_once() -> None:
    rng = np.random.default_rng(0)
    x, one, other = (rng.normal(size=shape).astype(np.float32) for shape in ((3, 8), (8, 4), (8, 5)))
    smooth = np.linspace(0.5, 2, 8).astype(np.float32)
    (first, second), operators = computed(x, [one, other], smooth, placed=[1, 0])
    assert operators.count("QuantizeLinear") == 1
    for product, weight in ((first, one), (second, other)):
        moved, turned = x / smooth, weight * smooth[:, None]
        assert (np.abs(product - x @ weight) <= rounding_bound(moved, turned)).all()


def test_a_row_of_zeros_stays_zero() -> None:
    (found,), _ = computed(np.zeros((2, 4), np.float32), [np.ones((4, 3), np.float32)], None)
    assert np.array_equal(found, np.zeros((2, 3)))


def test_no_two_products_overflow_16_bits() -> None:
    """As a processor without VNNI adds them: activations up to 255 times weights of 7 bits, in pairs."""
    weight = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    whole, scales = quantise_outputs(weight)
    assert 2 * 255 * int(np.abs(whole).max()) <= np.iinfo(np.int16).max
    np.testing.assert_allclose(whole * scales, weight, atol=np.abs(weight).max() / SEVEN_BITS / 2)


class Two(nn.Module):
    """Two layers of one input, and one whose input has a feature a thousand times as large as the others."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.other, self.last = nn.Linear(32, 16), nn.Linear(32, 24), nn.Linear(32, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        large = torch.ones(32)
        large[3] = 1000.0
        return self.one(x).sum() + self.other(x).sum() + self.last(x * large).sum()


def test_a_plan_shares_scales_among_layers_of_one_input_and_tames_large_features() -> None:
    model = Two()
    with torch.no_grad():
        model.last.weight[:, 3] /= 1000  # or the large feature were all there is
    recorder = Recorder(model)
    with recorder.listening():
        for seed in range(8):
            model(torch.randn(20, 32, generator=torch.Generator().manual_seed(seed)))
    plan = recorder.plan()
    assert set(plan) == {"one.weight", "other.weight", "last.weight"}
    assert plan["one.weight"].smooth is plan["other.weight"].smooth
    assert plan["last.weight"].smooth is not None
    assert plan["last.weight"].smooth.argmax() == 3
    assert plan["last.weight"].error < 0.02, "unsmoothed, 31 of 32 features would be rounded to nothing"
    assert plan_within(plan, 0.0) == {}
    assert plan_within(plan, 1.0) == plan


@pytest.mark.parametrize("correlation", [1.0, 0.99, 0.9])
def test_the_expected_loss_is_what_noise_costs(correlation: float) -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 400_000).astype(np.int8)
    scores = rng.normal(size=len(labels)) + 0.9 * labels
    before = auc(labels, scores.astype(np.float32))
    share = np.sqrt(1 / correlation**2 - 1)  # of noise, within a class
    noisy = scores + share * rng.normal(size=len(labels))
    lost = before - auc(labels, noisy.astype(np.float32))
    assert expected_loss(before, correlation) == pytest.approx(lost, abs=0.003)


def test_scores_without_any_spread_are_a_loss() -> None:
    assert expected_loss(0.8, None) == pytest.approx(0.3)
