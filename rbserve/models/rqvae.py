"""RQ-VAE: a vector as L codes, each the nearest entry of its level's codebook to what the levels before left over.

TIGER (Rajput et al. 2023, section 3.1), after Lee et al. 2022:

    z = Enc(x);  r_0 = z;  c_l = argmin_k |r_{l-1} - e^l_k|^2;  r_l = r_{l-1} - e^l_{c_l}
    loss = |x - Dec(sum_l e^l_{c_l})|^2 + mean_l(|sg(r_{l-1}) - e|^2 + commitment |r_{l-1} - sg(e)|^2)

Shapes: B rows of D numbers, L levels of K codes, latents of d numbers. Vectors are centred and scaled to an average
variance of 1 a number, so that the loss means the same for every encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from rbserve.models.rqvae_config import RqVaeConfig

KMEANS_ROUNDS = 20
SINKHORN_ROUNDS = 50
SINKHORN_SHARPNESS = 300.0


@dataclass(frozen=True)
class Quantized:
    """What the codebooks make of B latents, a level after the other."""

    codes: Tensor
    """int64[B, L]"""
    residuals: Tensor
    """float32[B, L, d]: what each level was given."""
    entries: Tensor
    """float32[B, L, d]: the codebook entries that it chose."""


class RqVae(nn.Module):
    """Encoder, codebooks and decoder for vectors of `inputs` numbers."""

    centre: Tensor
    scale: Tensor
    idle: Tensor

    def __init__(self, config: RqVaeConfig, inputs: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = _layers([inputs, *config.hidden, config.dim])
        self.decoder = _layers([config.dim, *reversed(config.hidden), inputs])
        self.codebooks = nn.Parameter(torch.randn(config.levels, config.codes, config.dim))
        self.register_buffer("centre", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("idle", torch.zeros(config.levels, config.codes, dtype=torch.int64))

    def forward(self, vectors: Tensor, spare: Tensor) -> Tensor:
        """The loss of each of `vectors` [B, D], as [B].

        In training, codes that have been idle too long first move to residuals of the vectors `spare` [L, K, D].
        """
        if self.training:
            self._revive(spare)
        x = self.normalize(vectors)
        z = self.encoder(x)
        quantized = self.quantize(z)
        if self.training:
            self._count(quantized.codes)
        total = quantized.entries.sum(dim=1)
        decoded = self.decoder(z + (total - z).detach())  # straight through: the decoder's gradient reaches z
        return _squared(x - decoded) + self._codebook_loss(quantized)

    def normalize(self, vectors: Tensor) -> Tensor:
        """[B, D] as the encoder takes them."""
        return (vectors - self.centre) * self.scale

    def encode(self, vectors: Tensor) -> Tensor:
        """Latents [B, d] of vectors [B, D]."""
        z: Tensor = self.encoder(self.normalize(vectors))
        return z

    def quantize(self, z: Tensor) -> Quantized:
        """The codes of latents [B, d]. A level's residual has a gradient to z, none to the levels before."""
        residual = z
        codes, residuals, entries = [], [], []
        for level, book in enumerate(self.codebooks):
            chosen = self._choose(residual.detach(), book.detach(), level)
            entry = nn.functional.embedding(chosen, book)
            codes.append(chosen)
            residuals.append(residual)
            entries.append(entry)
            residual = residual - entry.detach()
        return Quantized(torch.stack(codes, 1), torch.stack(residuals, 1), torch.stack(entries, 1))

    @torch.no_grad()
    def start_from(self, vectors: Tensor) -> None:
        """Puts the codebooks where a sample of vectors [S, D] lies: k-means of each level's residuals."""
        residual = self.encode(vectors)
        for book in self.codebooks:
            book.copy_(kmeans(residual, len(book)))
            residual = residual - book[nearest(residual, book)]

    def _choose(self, residual: Tensor, book: Tensor, level: int) -> Tensor:
        balance = self.config.balance
        last = level == self.config.levels - 1
        if self.training and (balance == "all" or (balance == "last" and last)):
            return balanced(residual, book)
        return nearest(residual, book)

    def _codebook_loss(self, quantized: Quantized) -> Tensor:
        codebook = _squared(quantized.residuals.detach() - quantized.entries)
        commitment = _squared(quantized.residuals - quantized.entries.detach())
        return (codebook + self.config.commitment * commitment).mean(dim=1)

    @torch.no_grad()
    def _count(self, codes: Tensor) -> None:
        """Ages every code by a batch but those that the batch took."""
        self.idle += 1
        for level, taken in enumerate(codes.T):
            self.idle[level, taken] = 0

    @torch.no_grad()
    def _revive(self, spare: Tensor) -> None:
        dead = self.idle >= self.config.revive_after
        for level in dead.any(dim=1).nonzero().flatten().tolist():
            residual = self.encode(spare[level])
            for book in self.codebooks[:level]:
                residual = residual - book[nearest(residual, book)]
            self.codebooks[level, dead[level]] = residual[dead[level]]
        self.idle[dead] = 0


def nearest(residual: Tensor, book: Tensor) -> Tensor:
    """int64[B]: for each of residual [B, d] the entry of book [K, d] at the least distance."""
    return distances(residual, book).argmin(dim=1)


def distances(residual: Tensor, book: Tensor) -> Tensor:
    """Squared Euclidean distances [B, K]."""
    return _squared(residual)[:, None] - 2 * residual @ book.T + _squared(book)


def balanced(residual: Tensor, book: Tensor) -> Tensor:
    """int64[B]: a code for each residual so that all K are about equally frequent.

    Sinkhorn's algorithm on exp(-distance), as LC-Rec (Zheng et al. 2024, section 3.2) has it, in logarithms.
    """
    cost = distances(residual, book)
    middle = (cost.max() + cost.min()) / 2
    weights = -SINKHORN_SHARPNESS * (cost - middle) / (cost.max() - middle).clamp_min(1e-12)
    for _ in range(SINKHORN_ROUNDS):
        weights = weights - weights.logsumexp(dim=0, keepdim=True)
        weights = weights - weights.logsumexp(dim=1, keepdim=True)
    return weights.argmax(dim=1)


def kmeans(points: Tensor, clusters: int) -> Tensor:
    """Centres [clusters, d] of points [S, d] by Lloyd's algorithm, from points drawn by torch's generator.

    A cluster that loses its last point keeps its centre; with fewer points than clusters, points repeat.
    """
    order = torch.randperm(len(points), device=points.device)
    centres = points[order[torch.arange(clusters) % len(points)]].clone()
    for _ in range(KMEANS_ROUNDS):
        owner = nearest(points, centres)
        counts = torch.bincount(owner, minlength=clusters)
        sums = torch.zeros_like(centres).index_add_(0, owner, points)
        centres[counts > 0] = sums[counts > 0] / counts[counts > 0, None]
    return centres


def _squared(vectors: Tensor) -> Tensor:
    return vectors.square().sum(dim=-1)


def _layers(widths: list[int]) -> nn.Sequential:
    """Linear layers through the given widths, with ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
