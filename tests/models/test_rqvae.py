"""The RQ-VAE against a plain loop over its definition, and its k-means and Sinkhorn against what they promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from rbserve.models.rqvae import RqVae, balanced, kmeans, nearest
from rbserve.models.rqvae_config import RqVaeConfig

CONFIG = RqVaeConfig(levels=3, codes=7, hidden=(16,), dim=5, revive_after=2)


def _model(**changes: object) -> RqVae:
    torch.manual_seed(3)
    return RqVae(RqVaeConfig(**{"levels": 3, "codes": 7, "hidden": (16,), "dim": 5, "revive_after": 2, **changes}), 11)  # type: ignore[arg-type]  # fmt: skip


def _vectors(rows: int = 20) -> Tensor:
    return torch.from_numpy(np.random.default_rng(5).normal(size=(rows, 11)).astype(np.float32))


def _spare() -> Tensor:
    return _vectors(21).view(3, 7, 11)


def test_codes_and_loss_are_those_of_a_plain_loop_over_the_definition() -> None:
    model = _model().eval()
    x = _vectors()
    losses = model(x, _spare()).detach()
    codes = model.quantize(model.encode(x)).codes
    books = model.codebooks.detach().double()
    for row in range(len(x)):
        z = model.encode(x[row : row + 1])[0].detach().double()
        residual, total, penalty = z.clone(), torch.zeros(5).double(), 0.0
        for level in range(3):
            distances = [float(((residual - entry) ** 2).sum()) for entry in books[level]]
            chosen = int(np.argmin(distances))
            assert int(codes[row, level]) == chosen
            entry = books[level][chosen]
            penalty += (1 + 0.25) * distances[chosen] / 3
            total += entry
            residual = residual - entry
        decoded = model.decoder(total[None].float())[0].detach()
        expected = float(((x[row] - decoded) ** 2).sum()) + penalty
        assert float(losses[row]) == pytest.approx(expected, rel=1e-5)


def test_residuals_and_entries_add_up_to_the_latent() -> None:
    z = torch.randn(50, 5, generator=torch.Generator().manual_seed(1))
    found = _model().quantize(z)
    torch.testing.assert_close(found.residuals[:, 0], z, rtol=0, atol=0)
    torch.testing.assert_close(found.residuals[:, 1:], found.residuals[:, :-1] - found.entries[:, :-1])


def test_the_decoders_gradient_passes_straight_through_the_codes() -> None:
    model = _model().eval()
    z = model.encode(_vectors()).detach().requires_grad_()
    total = model.quantize(z).entries.sum(dim=1)
    model.decoder(z + (total - z).detach()).sum().backward()
    at_codes = total.detach().requires_grad_()
    model.decoder(at_codes).sum().backward()
    torch.testing.assert_close(z.grad, at_codes.grad)
    with_loss = _model(commitment=1e-9).eval()
    with_loss(_vectors(), _spare()).sum().backward()
    gradient = with_loss.encoder[0].weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_codebooks_learn_from_their_rows_alone_and_the_encoder_from_its_commitment() -> None:
    model = _model()
    found = model.quantize(model.encode(_vectors()))
    model._codebook_loss(found).sum().backward()
    used = torch.zeros(3, 7, dtype=torch.bool)
    for level in range(3):
        used[level, found.codes[:, level]] = True
    gradient = model.codebooks.grad
    assert gradient is not None
    assert torch.equal(gradient.abs().sum(dim=2) > 0, used)
    entry = found.codes[0, 0]
    rows = found.codes[:, 0] == entry
    pull = 2 / 3 * (model.codebooks[0, entry] - found.residuals[rows, 0]).sum(dim=0)
    torch.testing.assert_close(gradient[0, entry], pull.detach())


def test_a_code_that_stays_idle_moves_to_a_spare_residual_and_others_stay() -> None:
    model = _model(revive_after=3)
    with torch.no_grad():
        model.codebooks[1, 4] = 1e6
    before = model.codebooks.detach().clone()
    with torch.no_grad():
        for _ in range(3):
            assert torch.equal(model.codebooks[1, 4], before[1, 4])
            model(_vectors(), _spare())
        dead = model.idle >= 3
        assert dead[1, 4]
        model(_vectors(), _spare())
    spare = model.encode(_spare()[1])
    residual = spare - model.codebooks[0][nearest(spare, model.codebooks[0])]
    torch.testing.assert_close(model.codebooks[1, 4], residual[4])
    assert torch.equal(model.codebooks[~dead], before[~dead])


def test_nothing_moves_outside_training() -> None:
    model = _model(revive_after=1).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for _ in range(3):
        model(_vectors(), _spare())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_kmeans_is_as_good_as_scikit_learns() -> None:
    rng = np.random.default_rng(2)
    points = (rng.normal(size=(6, 4))[rng.integers(6, size=400)] * 4 + rng.normal(size=(400, 4))).astype(
        np.float32
    )
    torch.manual_seed(1)
    centres = kmeans(torch.from_numpy(points), 12)
    owner = nearest(torch.from_numpy(points), centres)
    inertia = float((torch.from_numpy(points) - centres[owner]).square().sum())
    reference = KMeans(12, init="random", n_init=10, random_state=0).fit(points).inertia_
    assert inertia < 1.25 * reference
    for cluster in range(12):
        mine = points[owner.numpy() == cluster]
        np.testing.assert_allclose(centres[cluster], mine.mean(axis=0), atol=0.5)


def test_kmeans_takes_fewer_points_than_clusters_and_equal_points() -> None:
    few = kmeans(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), 5)
    assert {tuple(row) for row in few.tolist()} == {(1.0, 2.0), (3.0, 4.0)}
    assert torch.equal(kmeans(torch.ones(9, 2), 4), torch.ones(4, 2))


def test_starting_from_a_sample_puts_every_level_where_residuals_are() -> None:
    model = _model()
    random = model.quantize(model.encode(_vectors(300))).residuals[:, -1].square().sum()
    model.start_from(_vectors(300))
    started = model.quantize(model.encode(_vectors(300)))
    assert started.residuals[:, -1].square().sum() < random / 2
    lengths = started.residuals.square().sum(dim=(0, 2))
    assert (lengths[1:] < lengths[:-1]).all()


def test_balanced_codes_are_about_equally_frequent_where_the_nearest_are_not() -> None:
    generator = torch.Generator().manual_seed(0)
    book = torch.randn(8, 3, generator=generator)
    residual = torch.randn(800, 3, generator=generator) + 3 * book[0]
    lopsided = torch.bincount(nearest(residual, book), minlength=8)
    even = torch.bincount(balanced(residual, book), minlength=8)
    assert lopsided.max() > 400
    assert lopsided.min() < 5
    assert even.max() <= 150
    assert even.min() >= 50


@pytest.mark.parametrize(("balance", "levels"), [("none", []), ("last", [2]), ("all", [0, 1, 2])])
def test_balance_applies_to_its_levels_in_training_only(balance: str, levels: list[int]) -> None:
    model = _model(balance=balance)
    residual, book = (
        torch.randn(40, 5, generator=torch.Generator().manual_seed(4)),
        model.codebooks[0].detach(),
    )
    assert not torch.equal(balanced(residual, book), nearest(residual, book))
    for level in range(3):
        expected = balanced if level in levels else nearest
        assert torch.equal(model.train()._choose(residual, book, level), expected(residual, book))
        assert torch.equal(model.eval()._choose(residual, book, level), nearest(residual, book))
