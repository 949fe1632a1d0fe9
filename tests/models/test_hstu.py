"""HSTU's block is what the equations of its paper say, one position, head and number at a time."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from rbserve.models.hstu import HstuBlock

DIM, HEADS, LENGTH = 8, 2, 5


def block() -> HstuBlock:
    """A block in eval mode with weights far from the small start."""
    torch.manual_seed(0)
    made = HstuBlock(DIM, HEADS, positions=LENGTH, dropout=0.5).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made


@torch.inference_mode()
def test_a_block_is_what_equations_1_to_3_say() -> None:
    made, x, width = block(), torch.randn(3, LENGTH, DIM), DIM // HEADS
    gate, value, query, key = F.silu(made.parts(made.norm(x))).split(DIM, dim=-1)  # equation 1
    mixed = torch.zeros_like(x)
    for head in range(HEADS):
        own = slice(head * width, (head + 1) * width)
        for place in range(LENGTH):
            for earlier in range(place + 1):
                product = (query[:, place, own] * key[:, earlier, own]).sum(-1)
                weight = F.silu(product + made.distance[place - earlier, head])  # equation 2
                mixed[:, place, own] += weight[:, None] * value[:, earlier, own]
    expected = x + made.output(made.mixed_norm(mixed) * gate)  # equation 3
    torch.testing.assert_close(made(x), expected)


@torch.inference_mode()
def test_no_position_sees_a_later_one() -> None:
    made, x = block(), torch.randn(2, LENGTH, DIM)
    before = made(x)
    for changed in range(LENGTH):
        other = x.clone()
        other[:, changed] += 1
        after = made(other)
        torch.testing.assert_close(after[:, :changed], before[:, :changed])
        assert not torch.allclose(after[:, changed:], before[:, changed:])


def test_every_weight_is_trained() -> None:
    made = block().train()
    made(torch.randn(2, LENGTH, DIM)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in made.parameters())
