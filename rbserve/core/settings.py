"""How a model is fitted, and how a student is taught: the options of `rbserve train` and `rbserve distill`.

Nothing here imports torch or NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from rbserve.core.errors import UsageError
from rbserve.core.options import Amount, Count, Natural, Options, Positive, Share

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "bf16", "auto"]
Schedule = Literal["constant", "cosine"]
Keep = Literal["first", "even"]


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
        Precision,
        Meta(
            description="Numbers of matrix products: bf16 has 16 bits, while weights and sums keep 32; auto takes bf16 "
            "for a language model on a processor with bf16 products, else fp32."
        ),
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
    device: Annotated[
        Device,
        Meta(description="Where the model is trained; auto is a CUDA device if there is one, else the CPU."),
    ] = "auto"
    threads: Annotated[
        int,
        Meta(
            ge=0,
            le=1_024,
            description="CPU threads of the training; 0 is a thread for each core that the process may use, or "
            "OMP_NUM_THREADS if it is fewer.",
        ),
    ] = 0

    @property
    def recipe(self) -> dict[str, Any]:
        """The settings that say how a model is fitted, by name: all but those that say where (`PLACE`)."""
        return without_place(asdict(self))


PLACE = frozenset({"device", "threads"})
"""The settings that say where a model is trained; they are no reason to call two trainings different."""


def without_place(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by name without those of `PLACE`."""
    return {name: value for name, value in settings.items() if name not in PLACE}


class Computation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a training was computed on: `cpu` or `cuda`, CPU threads, and the precision of matrix products."""

    device: str
    threads: int
    precision: str


SID_SETTINGS = Settings(batch=1_024, micro_batch=1_024, lr=1e-3, epochs=100, patience=100)
"""How semantic identifiers are fitted unless an option says otherwise."""


@dataclass(frozen=True)
class Teaching(Options):
    """How much a student learns from its teacher. Rows of users that the teacher does not score keep their labels.

    With `layers`, the student is the teacher with that many layers, and reads what the teacher reads, row by row.
    """

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
    layers: Annotated[
        Natural,
        Meta(
            description="Layers of a student that is its teacher, a language model, with fewer layers; 0: none such."
        ),
    ] = 0
    keep: Annotated[
        Keep,
        Meta(
            description="Layers of the teacher that the student begins with: evenly spaced ones, or its first ones."
        ),
    ] = "even"
    hidden: Annotated[
        Amount,
        Meta(
            description="Weight of the distance of the student's hidden states from the teacher's, with --layers."
        ),
    ] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers:
            self._check_layers()
        elif not self.alpha and not self.pairs:
            raise UsageError(
                "with no pairs and alpha 0 the teacher teaches nothing", "--pairs 20, or --alpha 0.5"
            )

    def _check_layers(self) -> None:
        if not self.alpha and not self.hidden:
            raise UsageError(
                "with alpha 0 and hidden 0 the teacher teaches nothing", "--alpha 0.5, or --hidden 1"
            )
