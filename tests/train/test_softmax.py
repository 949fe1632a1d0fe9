"""The full-softmax loss against autograd's own, value and gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rbserve.train.tasks.softmax import softmax_loss


def case(positions: int, dim: int, items: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(positions + items)
    hidden = torch.randn(positions, dim, dtype=dtype, requires_grad=True)
    table = torch.randn(items, dim, dtype=dtype, requires_grad=True)
    return hidden, table, torch.randint(0, items, (positions,))


def plain(hidden: Tensor, table: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, table), labels, reduction="sum")


@pytest.mark.parametrize(("positions", "dim", "items"), [(1, 4, 3), (8, 8, 50), (37, 6, 101), (64, 16, 1)])
def test_value_and_gradients_are_those_of_the_plain_loss(positions: int, dim: int, items: int) -> None:
    hidden, table, labels = case(positions, dim, items, torch.float64)
    ours, theirs = softmax_loss(hidden, table, labels), plain(hidden, table, labels)
    torch.testing.assert_close(ours, theirs)
    # Scaled as the loop scales them: the upstream gradient counts.
    for mine, wanted in zip(
        torch.autograd.grad(ours / 7, (hidden, table)),
        torch.autograd.grad(theirs / 7, (hidden, table)),
        strict=True,
    ):
        torch.testing.assert_close(mine, wanted)


def test_logits_beyond_the_range_of_exp() -> None:
    hidden, table, labels = case(5, 4, 9, torch.float32)
    loss = softmax_loss(1e3 * hidden, table, labels)
    torch.testing.assert_close(loss, plain(1e3 * hidden, table, labels))
    assert all(torch.isfinite(slope).all() for slope in torch.autograd.grad(loss, (hidden, table)))


def test_under_autocast_it_multiplies_in_16_bits_and_sums_in_32() -> None:
    hidden, table, labels = case(200, 16, 300, torch.float32)
    exact = plain(hidden, table, labels)
    with torch.autocast("cpu", torch.bfloat16):
        loss = softmax_loss(hidden, table, labels)
    assert loss.dtype == torch.float32
    assert loss.item() != exact.item()
    assert loss.item() == pytest.approx(exact.item(), rel=1e-3)
    for mine, wanted in zip(
        torch.autograd.grad(loss, (hidden, table)), torch.autograd.grad(exact, (hidden, table)), strict=True
    ):
        assert mine.dtype == torch.float32
        assert (mine - wanted).norm() < 0.02 * wanted.norm()


def test_no_positions_no_loss() -> None:
    hidden, table, labels = case(0, 4, 9, torch.float32)
    loss = softmax_loss(hidden, table, labels)
    assert loss.item() == 0
    assert torch.autograd.grad(loss, table)[0].abs().sum() == 0
