"""Fields as vectors: what a CTR model makes of the numbers and categories of a user, an item and a request.

Each category field has a vector of its own; all numbers of a side together have one, made by two layers, as in DLRM
(Naumov et al. 2019).
Shapes: R rows (or one user), d the width of a vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rbserve.core.fields import CODES, NUMBERS, USER_CODES, USER_NUMBERS, FieldSpec, Layout, code_starts

EMBEDDING_STD = 1e-2
HIDDEN = 128
"""Width of the hidden layer between a side's numbers and their vector."""


class Sides(NamedTuple):
    """How many vectors a model has of the user and of the item: one each, and one for each further field."""

    user: int = 1
    item: int = 1

    @property
    def are_single(self) -> bool:
        """Whether there are no fields beside history and candidate."""
        return self.user == self.item == 1


class FieldVectors(nn.Module):
    """The vectors of one side's fields: numbers float32[R, n] and codes int[R, columns] -> [R, count * d]."""

    center: Tensor
    scale: Tensor
    starts: Tensor

    def __init__(self, numbers: Sequence[FieldSpec], codes: Sequence[FieldSpec], dim: int) -> None:
        super().__init__()
        self.dim, self.widths = dim, [spec.width for spec in codes]
        self.count = bool(numbers) + len(codes)
        if numbers:
            self.register_buffer("center", torch.zeros(len(numbers)))
            self.register_buffer("scale", torch.ones(len(numbers)))
            self.of_numbers = nn.Sequential(
                nn.Linear(2 * len(numbers), HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, dim)
            )
        if codes:
            self.register_buffer("starts", torch.tensor(code_starts(codes), dtype=torch.int32))
            self.of_codes = nn.Embedding(sum(spec.size for spec in codes), dim)
            nn.init.normal_(self.of_codes.weight, std=EMBEDDING_STD)

    def forward(self, numbers: Tensor | None, codes: Tensor | None) -> Tensor:
        """The vectors side by side: that of the numbers, then that of each category field."""
        vectors = []
        if numbers is not None:
            vectors.append(self.of_numbers(self.standardised(numbers)))
        if codes is not None:
            embedded = self.of_codes(codes + self.starts)  # [R, columns, d]
            if max(self.widths) == 1:
                vectors.append(embedded.flatten(1))
            else:
                vectors += self._means(embedded, codes)
        return torch.cat(vectors, dim=1)

    def fit(self, numbers: Tensor) -> None:
        """Brings float32[R, n] to mean 0 and deviation 1 from now on; missing numbers do not count."""
        values = _logarithm(numbers).double()
        self.center = values.nanmean(dim=0).nan_to_num().float()
        deviation = (values - self.center).square().nanmean(dim=0).nan_to_num().sqrt()
        self.scale = torch.where(deviation > 1e-6, 1 / deviation.clamp(min=1e-6), 1.0).float()

    def standardised(self, numbers: Tensor) -> Tensor:
        """[R, 2n]: the numbers, 0 where they are missing, and whether they are."""
        missing = torch.isnan(numbers)
        values = (_logarithm(torch.where(missing, 0.0, numbers)) - self.center) * self.scale
        return torch.cat([torch.where(missing, 0.0, values), missing.to(values.dtype)], dim=1)

    def _means(self, embedded: Tensor, codes: Tensor) -> list[Tensor]:
        """The mean vector of each field's categories; of a field without any, that of MISSING, code 0."""
        vectors = []
        for vectors_of_field, own in zip(
            torch.split(embedded, self.widths, dim=1), torch.split(codes, self.widths, dim=1), strict=True
        ):
            there = (own > 0).to(embedded.dtype)
            first = torch.zeros_like(there)
            first[:, 0] = 1.0
            weights = torch.where(there.sum(dim=1, keepdim=True) > 0, there, first)
            vectors.append((vectors_of_field * weights[..., None]).sum(1) / weights.sum(dim=1, keepdim=True))
        return vectors


def _logarithm(numbers: Tensor) -> Tensor:
    """Numbers of any size brought near one another, with their sign: sign(x) log(1 + |x|)."""
    return torch.sign(numbers) * torch.log1p(numbers.abs())


class Fields(nn.Module):
    """The vectors of a layout's fields, of the user's side and of the item's."""

    def __init__(self, layout: Layout, dim: int) -> None:
        super().__init__()
        self.tensors = [*layout.tensors]
        self.user = FieldVectors(layout.user_numbers, layout.user_codes, dim)
        self.item = FieldVectors(layout.numbers, layout.codes, dim)
        self.sides = Sides(1 + self.user.count, 1 + self.item.count)

    def beside(self, user: Tensor, item: Tensor, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """A user's vector [1 or R, d] and items' [R, d], each with the vectors of its fields behind it."""
        if self.user.count:
            fields = self.user(tensors.get(USER_NUMBERS), tensors.get(USER_CODES))
            user = torch.cat([user, fields], dim=1)
        if self.item.count:
            item = torch.cat([item, self.item(tensors.get(NUMBERS), tensors.get(CODES))], dim=1)
        return user, item

    def fit(self, tensors: Mapping[str, Tensor]) -> None:
        """Learns the means and deviations of numbers from R rows."""
        for side, name in ((self.user, USER_NUMBERS), (self.item, NUMBERS)):
            if name in tensors:
                side.fit(tensors[name])
