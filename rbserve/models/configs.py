"""The options of each model: one frozen dataclass per architecture and item form.

The defaults are those of the paper's section 4.3 as its authors ran them; where the paper is silent, FuxiCTR's.
A config checks itself when it is made, so a value out of range cannot reach a model. Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta

from rbserve.core.errors import UsageError, unknown_name
from rbserve.core.options import (
    Amount,
    Count,
    Name,
    Names,
    Natural,
    Options,
    Positive,
    Rate,
    Share,
    Widths,
    from_mapping,
)
from rbserve.models.rqvae_config import Pooling

Factor = Annotated[float, Meta(gt=0.0, le=1.0)]
CHOSEN = {"note": "chosen on validation"}
"""Note of an option whose value is chosen when the model is made, unless it is set."""


@dataclass(frozen=True)
class ModelConfig(Options):
    """The options of a model; each value is checked against its field when the config is made."""

    @property
    def language_models(self) -> list[str]:
        """The language models that training reads: the backbone, the encoder of the items' texts."""
        return [getattr(self, name) for name in ("encoder", "backbone") if hasattr(self, name)]


@dataclass(frozen=True)
class CtrConfig(ModelConfig):
    """Options of every model that predicts clicks: embeddings, and hidden layers of ReLU with dropout."""

    dim: Annotated[Count, Meta(description="Width of the embeddings.")] = 64
    hidden: Annotated[Widths, Meta(description="Widths of the hidden layers.")] = (1000, 1000, 1000)
    dropout: Annotated[Rate, Meta(description="Share of the activations that dropout sets to 0.")] = 0.1
    fields: Annotated[
        Names,
        Meta(
            description="Fields that are read beside history and candidate: names, or own (those of the data set's "
            "tables), counted (counts of training rows), all.",
            extra={"note": "none"},
        ),
    ] = ()


@dataclass(frozen=True)
class DnnConfig(CtrConfig):
    """A plain multi-layer perceptron."""


@dataclass(frozen=True)
class PnnConfig(CtrConfig):
    """Product-based neural network."""


@dataclass(frozen=True)
class DeepFmConfig(CtrConfig):
    """Factorisation machine beside an MLP."""


@dataclass(frozen=True)
class DcnConfig(CtrConfig):
    """Deep & cross network."""

    cross_layers: Annotated[Count, Meta(description="Layers of the cross network.")] = 3


@dataclass(frozen=True)
class DcnV2Config(CtrConfig):
    """DCN with matrices, each of them a gated mixture of low-rank experts if `mix`, as the authors ran it."""

    cross_layers: Annotated[Count, Meta(description="Layers of the cross network.")] = 3
    mix: Annotated[
        bool, Meta(description="Cross by a gated mixture of low-rank experts; false: by full matrices.")
    ] = True
    rank: Annotated[Count, Meta(description="Rank of an expert's matrices, with mix.")] = 32
    experts: Annotated[Count, Meta(description="Experts of a cross layer, with mix.")] = 4
    structure: Annotated[
        Literal["parallel", "stacked"],
        Meta(description="The hidden layers stand beside the cross network, or on top of it."),
    ] = "parallel"


@dataclass(frozen=True)
class MaskNetConfig(CtrConfig):
    """Instance-guided masks.

    serial: a block per width of `hidden`. parallel: `blocks` blocks of `block_dim`, then an MLP of `hidden`.
    """

    dropout: Annotated[Rate, Meta(description="Share of the activations that dropout sets to 0.")] = 0.0
    structure: Annotated[
        Literal["parallel", "serial"],
        Meta(description="Mask blocks side by side below an MLP, or a block per width of hidden."),
    ] = "parallel"
    blocks: Annotated[Count, Meta(description="Mask blocks of the parallel structure.")] = 1
    block_dim: Annotated[Count, Meta(description="Width of a block of the parallel structure.")] = 64
    reduction_ratio: Annotated[
        Positive, Meta(description="Width of a mask's inner layer, as a multiple of the width it masks.")
    ] = 1.0


@dataclass(frozen=True)
class FinalMlpConfig(CtrConfig):
    """Two MLP streams, `hidden` and `second_hidden`, with feature gates and a bilinear fusion of heads."""

    dropout: Annotated[Rate, Meta(description="Share of the activations that dropout sets to 0.")] = 0.0
    second_hidden: Annotated[
        Widths,
        Meta(description="Widths of the second stream's hidden layers; hidden are the first stream's."),
    ] = (1000, 1000, 1000)
    heads: Annotated[
        Count, Meta(description="Heads of the fusion; divides the last width of both streams.")
    ] = 1
    gates: Annotated[bool, Meta(description="Gate the features of each stream.")] = True
    gate_hidden: Annotated[Widths, Meta(description="Widths of a gate's hidden layers.")] = (64,)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_divisor(self.heads, "last width of hidden", self.hidden[-1])
        _require_divisor(self.heads, "last width of second_hidden", self.second_hidden[-1])


@dataclass(frozen=True)
class AutoIntConfig(CtrConfig):
    """Multi-head self-attention over the fields, beside an MLP."""

    attention_layers: Annotated[Count, Meta(description="Layers of self-attention over the fields.")] = 3
    attention_dim: Annotated[Count, Meta(description="Width of an attention layer.")] = 64
    heads: Annotated[Count, Meta(description="Attention heads; a divisor of attention_dim.")] = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_divisor(self.heads, "attention_dim", self.attention_dim)


@dataclass(frozen=True)
class GdcnConfig(CtrConfig):
    """Gated deep & cross network."""

    cross_layers: Annotated[Count, Meta(description="Layers of the gated cross network.")] = 3
    structure: Annotated[
        Literal["parallel", "stacked"],
        Meta(description="The hidden layers stand beside the cross network, or on top of it."),
    ] = "parallel"


@dataclass(frozen=True)
class TextItems(CtrConfig):
    """Group B: an item is the mean of the trainable embeddings of its text's words (eq. 4)."""


@dataclass(frozen=True)
class EmbeddingItems(CtrConfig):
    """Group C: an item is a projection of its vector from a frozen language model (eq. 5)."""

    dim: Annotated[Count, Meta(description="Width of the embeddings, to which vectors are projected.")] = 256
    encoder: Annotated[
        Name, Meta(description="Language model that makes the items' vectors: a name of rbserve backbones.")
    ] = "minilm-l6"
    pooling: Annotated[
        Pooling, Meta(description="An item's vector is the mean over its text's tokens, or the last token's.")
    ] = "mean"
    vectors: Annotated[
        Literal["frozen", "tuned"],
        Meta(description="Train only the projection of the vectors, or the vectors as well."),
    ] = "frozen"


@dataclass(frozen=True)
class DnnTextConfig(TextItems, DnnConfig):
    """DNN over texts."""


@dataclass(frozen=True)
class DcnV2TextConfig(TextItems, DcnV2Config):
    """DCNv2 over texts."""


@dataclass(frozen=True)
class AutoIntTextConfig(TextItems, AutoIntConfig):
    """AutoInt over texts."""


@dataclass(frozen=True)
class GdcnTextConfig(TextItems, GdcnConfig):
    """GDCN over texts."""


@dataclass(frozen=True)
class DnnEmbConfig(EmbeddingItems, DnnConfig):
    """DNN over language-model vectors."""


@dataclass(frozen=True)
class DcnV2EmbConfig(EmbeddingItems, DcnV2Config):
    """DCNv2 over language-model vectors."""


@dataclass(frozen=True)
class AutoIntEmbConfig(EmbeddingItems, AutoIntConfig):
    """AutoInt over language-model vectors."""


@dataclass(frozen=True)
class GdcnEmbConfig(EmbeddingItems, GdcnConfig):
    """GDCN over language-model vectors."""


@dataclass(frozen=True)
class HistoryConfig(EmbeddingItems):
    """Beyond the paper: the history is read item by item, before an MLP; defaults chosen for BST on MicroLens."""

    dim: Annotated[Count, Meta(description="Width of the items' vectors and of the layers.")] = 128
    hidden: Annotated[Widths, Meta(description="Widths of the hidden layers.")] = (256,)
    dropout: Annotated[Rate, Meta(description="Share of the activations that dropout sets to 0.")] = 0.2
    vectors: Annotated[
        Literal["frozen", "tuned"],
        Meta(description="Train only the projection of the vectors, or the vectors as well."),
    ] = "tuned"
    item_hidden: Annotated[
        Natural,
        Meta(
            description="Width of a layer between an item's vector and its projection, which serving does not compute; "
            "0: none."
        ),
    ] = 256
    max_history: Annotated[Count, Meta(description="Last items of the history that are read.")] = 20


@dataclass(frozen=True)
class DinEmbConfig(HistoryConfig):
    """Deep interest network over language-model vectors: the candidate weighs the items of the history (Zhou et al.
    2018)."""

    attention_hidden: Annotated[
        Widths, Meta(description="Widths of the hidden layers that weigh an item of the history.")
    ] = (64,)
    softmax: Annotated[
        bool, Meta(description="Weights that sum to 1; false: as they are, which keeps their strength.")
    ] = False


@dataclass(frozen=True)
class LayeredHistoryConfig(HistoryConfig):
    """Layers of attention over the history, in its order; candidates behind it do not see each other."""

    layers: Annotated[Count, Meta(description="Layers of attention.")] = 2
    heads: Annotated[Count, Meta(description="Attention heads; a divisor of dim.")] = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_divisor(self.heads, "dim", self.dim)


@dataclass(frozen=True)
class BstEmbConfig(LayeredHistoryConfig):
    """Behaviour sequence transformer over language-model vectors (Chen et al. 2019)."""


@dataclass(frozen=True)
class HstuEmbConfig(LayeredHistoryConfig):
    """Hierarchical sequential transduction units over language-model vectors (Zhai et al. 2024)."""


@dataclass(frozen=True)
class TunedWeights(ModelConfig):
    """How the weights of a language model are trained."""

    lora_rank: Annotated[Natural, Meta(description="Rank of LoRA's matrices; 0 fine-tunes every weight.")] = (
        32
    )
    lora_alpha: Annotated[Count, Meta(description="LoRA's scale, alpha.")] = 128
    lora_dropout: Annotated[Rate, Meta(description="Share of LoRA's inputs that dropout sets to 0.")] = 0.1
    checkpointing: Annotated[
        bool, Meta(description="Compute activations twice instead of keeping them: less memory, more time.")
    ] = False


@dataclass(frozen=True)
class LayersConfig(TunedWeights):
    """Beyond the paper: the first layers of a language model read items as tokens, made of vectors of their texts."""

    backbone: Annotated[
        Name, Meta(description="Language model: a name of rbserve backbones, a hub id or a directory.")
    ] = "smollm2-135m"
    layers: Annotated[Count, Meta(description="First layers of the language model that are run.")] = 2
    start: Annotated[
        Literal["trained", "drawn"],
        Meta(
            description="Weights that training starts with: the language model's, or drawn ones of its shape."
        ),
    ] = "trained"
    lora_rank: Annotated[Natural, Meta(description="Rank of LoRA's matrices; 0 fine-tunes every weight.")] = 0
    align: Annotated[
        Natural,
        Meta(
            description="Passes over the items, before training, in which the layers learn to say at an item's tokens "
            "what they say of its text; 0: none."
        ),
    ] = 0
    layers_rate: Annotated[
        Share, Meta(description="Learning rate of the language model's weights, as a share of --lr.")
    ] = 0.2
    tower_layers: Annotated[
        Natural,
        Meta(
            description="With vectors=end-to-end: first layers of the encoder that are run and trained; 0: all."
        ),
    ] = 0
    tower_rate: Annotated[
        Share,
        Meta(
            description="With vectors=end-to-end: learning rate of the encoder's weights, as a share of --lr."
        ),
    ] = 0.1

    @property
    def trains_tower(self) -> bool:
        """Whether the encoder of the items' texts is trained with the model."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tower_layers and not self.trains_tower:
            raise UsageError(
                f"invalid option: tower_layers={self.tower_layers} is of an encoder that is trained",
                "--set vectors=end-to-end, or without it",
            )


@dataclass(frozen=True)
class ItemLanguageConfig(HistoryConfig, LayersConfig):
    """The layers read the history once, before all candidates, which do not see each other."""

    vectors: Annotated[
        Literal["frozen", "tuned", "end-to-end"],
        Meta(
            description="Train only the projection of the vectors; the vectors as well (tuned); or, in their place, "
            "the encoder that makes them of texts (end-to-end)."
        ),
    ] = "tuned"  # type: ignore[assignment]  # one value more than in HistoryConfig
    dim: Annotated[
        Count, Meta(description="Width of the items' vectors, of which their tokens are made.")
    ] = 256
    item_tokens: Annotated[Count, Meta(description="Tokens of an item.")] = 1

    @property
    def trains_tower(self) -> bool:
        """Whether the encoder of the items' texts is trained with the model."""
        return self.vectors == "end-to-end"


@dataclass(frozen=True)
class SasRecConfig(ModelConfig):
    """Self-attention over the history, in causal blocks (Kang & McAuley 2018)."""

    layers: Annotated[Count, Meta(description="Blocks of self-attention.")] = 3
    dim: Annotated[Count, Meta(description="Width of the blocks and of the item embeddings.")] = 64
    heads: Annotated[Count, Meta(description="Attention heads; a divisor of dim.")] = 8
    dropout: Annotated[Rate, Meta(description="Share of the activations that dropout sets to 0.")] = 0.2
    max_history: Annotated[
        Count,
        Meta(description="Last items of the history that are read; with its target a sequence has one more."),
    ] = 19
    targets: Annotated[
        Literal["all", "last"],
        Meta(
            description="Next items that training predicts: after every position, as SASRec, or the last (eq. 7)."
        ),
    ] = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_divisor(self.heads, "dim", self.dim)


@dataclass(frozen=True)
class SasRecTextConfig(SasRecConfig):
    """SASRec whose item vector is the item's own plus a projection of its text's vector; beyond the paper.

    A score has a learnt bias of the item, and `freshness` times the logarithm of (occurrences as a target + 0.5) /
    (occurrences + 3) in training sequences, which is chosen on validation where it is not set.
    """

    layers: Annotated[Count, Meta(description="Blocks of self-attention.")] = 2
    dim: Annotated[Count, Meta(description="Width of the blocks and of the item vectors.")] = 128
    heads: Annotated[Count, Meta(description="Attention heads; a divisor of dim.")] = 4
    dropout: Annotated[Rate, Meta(description="Share of the activations that dropout sets to 0.")] = 0.3
    encoder: Annotated[
        Name, Meta(description="Language model that makes the items' vectors: a name of rbserve backbones.")
    ] = "minilm-l6"
    pooling: Annotated[
        Pooling, Meta(description="An item's vector is the mean over its text's tokens, or the last token's.")
    ] = "mean"
    decay: Annotated[
        Share,
        Meta(
            description="Weight of a target for each item between it and the position that predicts it; 0: the next "
            "item alone."
        ),
    ] = 0.8
    negatives: Annotated[
        Natural,
        Meta(
            description="Items drawn for each batch that its targets are held against; 0: the whole catalogue."
        ),
    ] = 1024
    freshness: Annotated[
        Amount | None,
        Meta(description="Weight of an item's share of occurrences as a target; 0: none.", extra=CHOSEN),
    ] = None
    neighbours: Annotated[
        Natural,
        Meta(
            description="Heaviest neighbours of an item, counted as itemknn's are, that add to the scores; 0: none."
        ),
    ] = 0
    neighbour_text: Annotated[
        Amount,
        Meta(description="Weight of the similarity of texts among neighbours, as itemknn's text; 0: none."),
    ] = 0.2
    neighbour_weight: Annotated[
        Amount | None,
        Meta(
            description="Weight of the logarithm of an item's share of the neighbours' scores.", extra=CHOSEN
        ),
    ] = None


@dataclass(frozen=True)
class HstuConfig(SasRecTextConfig):
    """HSTU: pointwise attention with a gate and relative positions (Zhai et al. 2024), items as in SasRecTextConfig."""


@dataclass(frozen=True)
class SeqItemConfig(SasRecTextConfig, LayersConfig):
    """The layers of a language model in place of SASRec's blocks, items as in SasRecTextConfig."""

    dim: Annotated[
        Count, Meta(description="Width of the items' vectors, of which their tokens are made.")
    ] = 256
    vectors: Annotated[
        Literal["frozen", "end-to-end"],
        Meta(
            description="Train only the projection of the vectors, or also the encoder that makes them of texts "
            "(end-to-end)."
        ),
    ] = "frozen"

    @property
    def trains_tower(self) -> bool:
        """Whether the encoder of the items' texts is trained with the model."""
        return self.vectors == "end-to-end"


@dataclass(frozen=True)
class ItemKnnConfig(ModelConfig):
    """Directed item neighbours with decay and freshness: counted instead of trained; beyond the paper.

    An item i of the history adds recency^(items behind it) * weight(i, j) to the score of its neighbour j. weight(i, j)
    sums decay^(distance - 1) over the training sequences in which j follows i, divided by the square root of i's
    occurrences, times ((j's as a target + 0.5) / (j's occurrences + 3))^freshness. Options without a value are chosen
    on validation.
    """

    decay: Annotated[
        Factor | None,
        Meta(description="Factor of a pair's weight for each item between the two.", extra=CHOSEN),
    ] = None
    recency: Annotated[
        Factor | None,
        Meta(description="Factor of an item's weight for each item behind it in the history.", extra=CHOSEN),
    ] = None
    freshness: Annotated[
        Amount | None,
        Meta(
            description="Exponent of a candidate's share of occurrences as a target; 0: none.", extra=CHOSEN
        ),
    ] = None
    text: Annotated[
        Amount, Meta(description="Weight of the similarity of texts, added to that of a pair; 0: none.")
    ] = 0.0
    encoder: Annotated[
        Name, Meta(description="Language model that compares texts, with text: a name of rbserve backbones.")
    ] = "minilm-l6"
    neighbours: Annotated[Count, Meta(description="Heaviest neighbours that are kept for an item.")] = 100
    max_history: Annotated[
        Count,
        Meta(description="Last items of the history that are read; with its target a sequence has one more."),
    ] = 19

    @property
    def language_models(self) -> list[str]:
        """The encoder, where texts are compared."""
        return super().language_models if self.text else []


@dataclass(frozen=True)
class CodedItems(ModelConfig):
    """An item is its semantic identifier, a path of codes."""

    levels: Annotated[Count, Meta(description="Codes of an item's semantic identifier.")] = 4
    codes: Annotated[Count, Meta(description="Codes to choose from at each level.")] = 256
    encoder: Annotated[
        Name, Meta(description="Language model that makes the items' vectors: a name of rbserve backbones.")
    ] = "minilm-l6"
    pooling: Annotated[
        Pooling, Meta(description="An item's vector is the mean over its text's tokens, or the last token's.")
    ] = "mean"


@dataclass(frozen=True)
class GeneratedItems(CodedItems):
    """A ranking is generated code by code, by beam search (section 3.2)."""

    decoding: Annotated[
        Literal["free", "cbs"],
        Meta(
            description="Beam search over all codes, or conditional: over those that lead to an item (section 3.2)."
        ),
    ] = "free"
    width: Annotated[Count, Meta(description="Beams of the search.")] = 20


@dataclass(frozen=True)
class SidSasRecConfig(GeneratedItems, SasRecConfig):
    """SASRec over semantic identifiers."""


@dataclass(frozen=True)
class ParallelItems(CodedItems):
    """All codes of an item are predicted at once, and the catalogue is ranked by sums of their scores."""

    loss: Annotated[
        Literal["items", "codes"],
        Meta(
            description="Training holds the next item against the whole catalogue, or each of its codes against those "
            "of its level."
        ),
    ] = "items"


@dataclass(frozen=True)
class ParallelSasRecConfig(ParallelItems, SasRecConfig):
    """SASRec that reads an item as one token and predicts all codes of the next item at once; beyond the paper."""


@dataclass(frozen=True)
class GbdtConfig(ModelConfig):
    """Gradient-boosted trees of LightGBM on counted features and fields (Ke et al. 2017)."""

    fields: Annotated[
        Names,
        Meta(
            description="Fields that are read: names, or own (those of the data set's tables), counted (counts of "
            "training rows), all.",
        ),
    ] = ("all",)
    encoder: Annotated[
        Name, Meta(description="Language model by which texts are compared: a name of rbserve backbones.")
    ] = "minilm-l6"
    objective: Annotated[
        Literal["binary", "lambdarank"],
        Meta(description="Log-loss of clicks, or the order of the candidates of each request."),
    ] = "binary"
    leaves: Annotated[Count, Meta(description="Leaves of a tree, at most.")] = 31
    learning_rate: Annotated[
        Positive, Meta(description="What a tree adds to the score, as a share of its fit.")
    ] = 0.05
    trees: Annotated[Count, Meta(description="Trees, at most.")] = 2000
    patience: Annotated[
        Count, Meta(description="Trees without a better validation AUC after which training stops.")
    ] = 50
    min_rows: Annotated[Count, Meta(description="Training rows of a leaf, at least.")] = 50
    field_share: Annotated[Share, Meta(description="Share of the fields that a tree is given.")] = 0.8
    row_share: Annotated[Share, Meta(description="Share of the training rows that a tree is given.")] = 0.8


@dataclass(frozen=True)
class LanguageConfig(ModelConfig):
    """A language model that is asked whether the user is interested in a candidate (section 3.1).

    Where a prompt is too long, items are cut to a fifth of it, and the oldest items of the history are left out.
    """

    backbone: Annotated[
        Name, Meta(description="Language model: a name of rbserve backbones, a hub id or a directory.")
    ] = "smollm2-135m"
    max_tokens: Annotated[
        Count, Meta(description="Tokens of a prompt, at most; never more than the language model reads.")
    ] = 1024


@dataclass(frozen=True)
class ZeroShotConfig(LanguageConfig):
    """Group E, Table 3: a language model without fine-tuning."""


@dataclass(frozen=True)
class TunedLanguageConfig(TunedWeights, LanguageConfig):
    """A language model that is fine-tuned (section 4.3)."""


@dataclass(frozen=True)
class ClickLanguageConfig(TunedLanguageConfig):
    """A language model that is fine-tuned to say whether the user is interested in a candidate."""

    shared_history: Annotated[
        bool,
        Meta(
            description="An encoder reads the history once for all candidates; false: again with each candidate, "
            "which the history then attends to."
        ),
    ] = True


@dataclass(frozen=True)
class TextLanguageConfig(ClickLanguageConfig):
    """Group E, Table 4: items are their texts."""

    meet: Annotated[
        Natural,
        Meta(
            description="Layers of an encoder in which a candidate attends only to itself: its states behind them are "
            "computed once, and looked up in each request; 0: in no layer."
        ),
    ] = 0
    question: Annotated[
        Literal["last", "first"],
        Meta(
            description="Where a decoder reads the question: last, behind each candidate, as in the paper; first, "
            "once behind the history, so that a candidate is its title and a line break, where the answer is read."
        ),
    ] = "last"


@dataclass(frozen=True)
class P5Config(ClickLanguageConfig):
    """Group D: every item is a token of its own, with an embedding that is learnt (Geng et al. 2022)."""


@dataclass(frozen=True)
class SidLanguageConfig(CodedItems, ClickLanguageConfig):
    """Group F: an item is its semantic identifier, in new tokens."""


@dataclass(frozen=True)
class NextItemLanguageConfig(TunedLanguageConfig):
    """A language model that is asked for the next item."""

    lora_rank: Annotated[Natural, Meta(description="Rank of LoRA's matrices; 0 fine-tunes every weight.")] = (
        128
    )
    max_history: Annotated[
        Count,
        Meta(description="Last items of the history that are read; with its target a sequence has one more."),
    ] = 19


@dataclass(frozen=True)
class SeqP5Config(NextItemLanguageConfig):
    """Group I: every item is a token of its own, and the head scores the whole catalogue."""


@dataclass(frozen=True)
class SeqSidConfig(GeneratedItems, NextItemLanguageConfig):
    """Group J: an item is its semantic identifier, read and written code by code."""


@dataclass(frozen=True)
class SeqParallelConfig(ParallelItems, NextItemLanguageConfig):
    """A language model that reads semantic identifiers and predicts all codes of the next item at once; beyond the
    paper."""


@dataclass(frozen=True)
class EndpointConfig(ModelConfig):
    """Group E, Table 3: a language model behind an OpenAI-compatible endpoint, without fine-tuning."""

    model: Annotated[Name, Meta(description="Model that the endpoint is asked for.")] = "gpt-3.5-turbo"
    api_base: Annotated[Name, Meta(description="URL of the endpoint.")] = "https://api.openai.com/v1"
    key_from: Annotated[Name, Meta(description="Environment variable with the API key.")] = "OPENAI_API_KEY"
    top_logprobs: Annotated[
        int,
        Meta(
            ge=0,
            le=20,
            description="Log-probabilities to ask for; 0 for endpoints that refuse the parameter, whose answers are "
            "then a bare yes or no.",
        ),
    ] = 20
    max_completion_tokens: Annotated[
        Natural,
        Meta(
            description="Tokens of an answer, for models that reason first and refuse max_tokens; 0 sends max_tokens 1."
        ),
    ] = 0
    greedy: Annotated[
        bool, Meta(description="Send temperature 0; false for endpoints that refuse the parameter.")
    ] = True
    concurrency: Annotated[Count, Meta(description="Requests at a time.")] = 8
    usd_per_million_prompt_tokens: Annotated[
        Amount, Meta(description="Price in USD of a million prompt tokens, for the estimate.")
    ] = 0.5
    usd_per_million_completion_tokens: Annotated[
        Amount, Meta(description="Price in USD of a million answered tokens, for the estimate.")
    ] = 1.5


CONFIGS: dict[str, type[ModelConfig]] = {
    "dnn": DnnConfig,
    "pnn": PnnConfig,
    "deepfm": DeepFmConfig,
    "dcn": DcnConfig,
    "dcnv2": DcnV2Config,
    "masknet": MaskNetConfig,
    "finalmlp": FinalMlpConfig,
    "autoint": AutoIntConfig,
    "gdcn": GdcnConfig,
    "dnn-text": DnnTextConfig,
    "dcnv2-text": DcnV2TextConfig,
    "autoint-text": AutoIntTextConfig,
    "gdcn-text": GdcnTextConfig,
    "dnn-emb": DnnEmbConfig,
    "dcnv2-emb": DcnV2EmbConfig,
    "autoint-emb": AutoIntEmbConfig,
    "gdcn-emb": GdcnEmbConfig,
    "din-emb": DinEmbConfig,
    "bst-emb": BstEmbConfig,
    "hstu-emb": HstuEmbConfig,
    "item": ItemLanguageConfig,
    "sasrec": SasRecConfig,
    "sasrec-emb": SasRecTextConfig,
    "seq-item": SeqItemConfig,
    "hstu": HstuConfig,
    "itemknn": ItemKnnConfig,
    "gbdt": GbdtConfig,
    "sid-sasrec": SidSasRecConfig,
    "sid-sasrec-parallel": ParallelSasRecConfig,
    "zeroshot": ZeroShotConfig,
    "endpoint": EndpointConfig,
    "text": TextLanguageConfig,
    "p5": P5Config,
    "sid": SidLanguageConfig,
    "seq-p5": SeqP5Config,
    "seq-sid": SeqSidConfig,
    "seq-sid-parallel": SeqParallelConfig,
}


def kind_of(config: ModelConfig) -> str:
    """The key of CONFIGS that makes `config`; a manifest stores it beside `config_to_dict`."""
    return next(kind for kind, cls in CONFIGS.items() if cls is type(config))


def config_to_dict(config: Options) -> dict[str, Any]:
    """Every option of a record that is a dataclass by name, ready for JSON."""
    return dataclasses.asdict(config)


def config_from_dict(kind: str | type[ModelConfig], options: Mapping[str, Any]) -> ModelConfig:
    """The config of `kind`, a key of CONFIGS or a class, with `options` set and defaults for the rest.

    Raises UsageError for an unknown kind or option and for a value of the wrong type or out of range.
    """
    if isinstance(kind, str) and kind not in CONFIGS:
        raise unknown_name("kind of model", kind, CONFIGS)
    return from_mapping(CONFIGS[kind] if isinstance(kind, str) else kind, options)


def _require_divisor(heads: int, name: str, width: int) -> None:
    if width % heads:
        raise UsageError(
            f"invalid option: heads={heads} does not divide the {name}, {width}", "change one of the two"
        )
