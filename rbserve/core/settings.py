"""How a model is fitted: the numbers behind `rbserve train`'s options. Here, without torch, for whoever reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from rbserve.core.errors import UsageError

Precision = Literal["fp32", "bf16"]
Schedule = Literal["constant", "cosine"]


@dataclass(frozen=True)
class Settings:
    """How a model is fitted; the paper's values for CTR models (section 4.3).

    `precision` bf16 multiplies matrices in 16 bits (autocast) and keeps weights, their updates and sums in 32.
    `epoch_rows` ends an epoch, and with it the wait for a validation, after so many rows, drawn anew each
    time; 0 is all.
    `schedule` cosine lets the learning rate rise to `lr` and then fall to 0 at the end of the last of the `epochs`.
    """

    batch: int = 5_000
    micro_batch: int = 5_000
    lr: float = 1e-3
    epochs: int = 50
    patience: int = 5
    seed: int = 2024
    precision: Precision = "fp32"
    schedule: Schedule = "constant"
    epoch_rows: int = 0

    def __post_init__(self) -> None:
        for name in ("batch", "micro_batch", "epochs", "patience"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.epoch_rows < 0:
            raise UsageError(f"epoch_rows must be at least 0, not {self.epoch_rows}")
        if not self.lr > 0:
            raise UsageError(f"lr must be above 0, not {self.lr}")
        for name, known in (("precision", Precision), ("schedule", Schedule)):
            if getattr(self, name) not in get_args(known):
                raise UsageError(f"unknown {name}: {getattr(self, name)}", " or ".join(get_args(known)))
