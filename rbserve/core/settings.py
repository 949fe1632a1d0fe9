"""How a model is fitted, and how a student is taught: the options of `rbserve train` and `rbserve distill`.

Nothing here imports torch or NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from rbserve.core.errors import UsageError
from rbserve.core.options import Count, Natural, Options, Positive, Share

Precision = Literal["fp32", "bf16"]
Schedule = Literal["constant", "cosine"]


@dataclass(frozen=True)
class Settings(Options):
    """How a model is fitted; the defaults are the paper's values for CTR models (section 4.3)."""

    batch: Annotated[Count, Meta(description="Training rows per update of the weights.")] = 5_000
    micro_batch: Annotated[
        Count, Meta(description="Rows of a batch computed at once; fewer take less memory and more time.")
    ] = 5_000
    lr: Annotated[Positive, Meta(description="Learning rate of Adam.")] = 1e-3
    epochs: Annotated[Count, Meta(description="Epochs, at most.")] = 50
    patience: Annotated[
        Count, Meta(description="Stop after this many epochs without a better validation metric.")
    ] = 5
    seed: Annotated[int, Meta(description="Seed of the weights, of the rows' order and of dropout.")] = 2024
    precision: Annotated[
        Precision, Meta(description="Numbers of matrix products: bf16 has 16 bits; weights and sums keep 32.")
    ] = "fp32"
    schedule: Annotated[
        Schedule,
        Meta(
            description="Learning rate over time; cosine rises to --lr and falls to 0 by the last of --epochs."
        ),
    ] = "constant"
    epoch_rows: Annotated[
        Natural, Meta(description="Training rows per epoch, drawn anew for each; 0 takes all rows.")
    ] = 0


SID_SETTINGS = Settings(batch=1_024, micro_batch=1_024, lr=1e-3, epochs=100, patience=100)
"""How semantic identifiers are fitted unless an option says otherwise."""


@dataclass(frozen=True)
class Teaching(Options):
    """How much a student learns from its teacher. Rows of users that the teacher does not score keep their labels."""

    pairs: Annotated[
        Natural, Meta(description="Items without a label that the teacher scores for each training user.")
    ] = 20
    alpha: Annotated[
        Share,
        Meta(description="Weight of the teacher's probability in the target of a labelled row, from 0 to 1."),
    ] = 0.5
    teacher_users: Annotated[
        Natural, Meta(description="Training users that the teacher scores, drawn at random; 0 scores all.")
    ] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.alpha and not self.pairs:
            raise UsageError(
                "with no pairs and alpha 0 the teacher teaches nothing", "--pairs 20, or --alpha 0.5"
            )
