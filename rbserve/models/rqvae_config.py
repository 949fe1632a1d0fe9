"""The options of semantic identifiers. A module of its own, as the command line reads it to print its help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from rbserve.core.options import Count, Name, Options, Positive, Widths

Pooling = Literal["mean", "last"]


@dataclass(frozen=True)
class RqVaeConfig(Options):
    """An RQ-VAE that turns items' vectors into semantic identifiers (section 4.3; TIGER, Rajput et al. 2023)."""

    encoder: Annotated[
        Name, Meta(description="Language model that makes the items' vectors: a name of rbserve backbones.")
    ] = "minilm-l6"
    pooling: Annotated[
        Pooling, Meta(description="An item's vector is the mean over its text's tokens, or the last token's.")
    ] = "mean"
    levels: Annotated[Count, Meta(description="Codes of an item's semantic identifier, a codebook each.")] = 4
    codes: Annotated[Count, Meta(description="Codes to choose from at each level.")] = 256
    hidden: Annotated[
        Widths, Meta(description="Widths of the encoder's hidden layers; the decoder has them in reverse.")
    ] = (512, 256, 128)
    dim: Annotated[Count, Meta(description="Width of a code's vector.")] = 32
    commitment: Annotated[
        Positive, Meta(description="Weight of the loss that draws the encoder to its codes.")
    ] = 0.25
    revive_after: Annotated[
        Count, Meta(description="Training batches after which an unused code moves to where items are.")
    ] = 10
    balance: Annotated[
        Literal["none", "last", "all"],
        Meta(description="Levels whose codes share the items of a training batch evenly."),
    ] = "none"
