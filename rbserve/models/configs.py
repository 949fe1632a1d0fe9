"""What each model can be told: one frozen dataclass per architecture and item form.

The defaults are those of the paper's section 4.3 as its authors ran them; where they are silent, FuxiCTR's.
A config checks itself when it is made, so a value out of range cannot reach a model. No torch here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from rbserve.core.errors import UsageError, unknown_name

Count = Annotated[int, Meta(ge=1, description="an integer of at least 1")]
Rank = Annotated[int, Meta(ge=0, description="an integer of at least 0")]
Rate = Annotated[float, Meta(ge=0.0, lt=1.0, description="a number from 0 up to, but not including, 1")]
Price = Annotated[float, Meta(ge=0.0, description="a number of at least 0")]
Name = Annotated[str, Meta(min_length=1, description="a name")]
Ratio = Annotated[float, Meta(gt=0.0, description="a number above 0")]
Widths = Annotated[
    tuple[Annotated[int, Meta(ge=1)], ...],
    Meta(min_length=1, description="one or more integers of at least 1, such as 512,256"),
]


@dataclass(frozen=True)
class ModelConfig:
    """What every config does: check its values against the types of its fields."""

    def __post_init__(self) -> None:
        for key, hint in _hints(type(self)).items():
            object.__setattr__(self, key, _checked(key, getattr(self, key), hint, strict=True))


@dataclass(frozen=True)
class CtrConfig(ModelConfig):
    """What every CTR model has: embeddings of width `dim` and hidden layers of ReLU with dropout."""

    dim: Count = 64
    hidden: Widths = (1000, 1000, 1000)
    dropout: Rate = 0.1


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

    cross_layers: Count = 3


@dataclass(frozen=True)
class DcnV2Config(CtrConfig):
    """DCN with matrices, each of them a gated mixture of low-rank experts if `mix`, as the authors ran it."""

    cross_layers: Count = 3
    mix: bool = True
    rank: Count = 32
    experts: Count = 4
    structure: Literal["parallel", "stacked"] = "parallel"


@dataclass(frozen=True)
class MaskNetConfig(CtrConfig):
    """Instance-guided masks.

    serial: a block per width of `hidden`. parallel: `blocks` blocks of `block_dim`, then an MLP of `hidden`.
    A mask's inner layer is `reduction_ratio` times as wide as what it masks.
    """

    dropout: Rate = 0.0
    structure: Literal["parallel", "serial"] = "parallel"
    blocks: Count = 1
    block_dim: Count = 64
    reduction_ratio: Ratio = 1.0


@dataclass(frozen=True)
class FinalMlpConfig(CtrConfig):
    """Two MLP streams, `hidden` and `second_hidden`, with feature gates and a bilinear fusion of heads."""

    dropout: Rate = 0.0
    second_hidden: Widths = (1000, 1000, 1000)
    heads: Count = 1
    gates: bool = True
    gate_hidden: Widths = (64,)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_divides(self.heads, "last width of hidden", self.hidden[-1])
        _check_divides(self.heads, "last width of second_hidden", self.second_hidden[-1])


@dataclass(frozen=True)
class AutoIntConfig(CtrConfig):
    """Multi-head self-attention over the fields, beside an MLP."""

    attention_layers: Count = 3
    attention_dim: Count = 64
    heads: Count = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_divides(self.heads, "attention_dim", self.attention_dim)


@dataclass(frozen=True)
class GdcnConfig(CtrConfig):
    """Gated deep & cross network."""

    cross_layers: Count = 3
    structure: Literal["parallel", "stacked"] = "parallel"


@dataclass(frozen=True)
class TextItems(CtrConfig):
    """Group B: an item is the mean of the trainable embeddings of its text's words (eq. 4)."""


@dataclass(frozen=True)
class EmbeddingItems(CtrConfig):
    """Group C: an item is a projection of its vector from a frozen language model (eq. 5).

    `vectors` says whether training changes the language model's vectors themselves (`tuned`: they are where the
    item embedding starts) or only their projection (`frozen`).
    """

    dim: Count = 256
    encoder: Name = "minilm-l6"
    pooling: Literal["mean", "last"] = "mean"
    vectors: Literal["frozen", "tuned"] = "frozen"


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
class SasRecConfig(ModelConfig):
    """Self-attention over the history (Kang & McAuley 2018): `layers` causal blocks of width `dim`.

    The last `max_history` items are read: 19, as the last 20 of a sequence include its target. `targets` says which
    next items training predicts: those after every position, as SASRec does, or the last one alone, as eq. 7
    is written.
    """

    layers: Count = 3
    dim: Count = 64
    heads: Count = 8
    dropout: Rate = 0.2
    max_history: Count = 19
    targets: Literal["all", "last"] = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_divides(self.heads, "dim", self.dim)


@dataclass(frozen=True)
class CodedItems(ModelConfig):
    """An item is its semantic identifier: `levels` tokens, each one of `codes`.

    `encoder` and `pooling` make the vectors that the codes stand for.
    """

    levels: Count = 4
    codes: Count = 256
    encoder: Name = "minilm-l6"
    pooling: Literal["mean", "last"] = "mean"


@dataclass(frozen=True)
class GeneratedItems(CodedItems):
    """A ranking is generated: by beam search of `width` beams, over all codes or over those that lead to an item.

    The latter is `decoding` cbs, conditional beam search (section 3.2).
    """

    decoding: Literal["free", "cbs"] = "free"
    width: Count = 20


@dataclass(frozen=True)
class SidSasRecConfig(GeneratedItems, SasRecConfig):
    """SASRec over semantic identifiers."""


@dataclass(frozen=True)
class RqVaeConfig(ModelConfig):
    """How items get semantic identifiers: `encoder` and `pooling` make vectors, an RQ-VAE makes codes of them.

    Section 4.3: `levels` codebooks of `codes` entries, by TIGER's pipeline (Rajput et al. 2023), whose encoder goes
    through layers of widths `hidden` to `dim` numbers; the decoder goes back the same way. `commitment` weighs how
    the encoder is drawn to its codes. A code that no row of `revive_after` batches took is moved to where rows are.
    `balance` spreads the rows of a training batch evenly over the codes of no level, the last, or all.
    """

    encoder: Name = "minilm-l6"
    pooling: Literal["mean", "last"] = "mean"
    levels: Count = 4
    codes: Count = 256
    hidden: Widths = (512, 256, 128)
    dim: Count = 32
    commitment: Ratio = 0.25
    revive_after: Count = 10
    balance: Literal["none", "last", "all"] = "none"


@dataclass(frozen=True)
class LanguageConfig(ModelConfig):
    """A language model that is asked whether the user is interested in a candidate (section 3.1).

    `backbone` is a name of BACKBONES, a hub id or a directory. A prompt has at most `max_tokens` tokens, and no more
    than the language model reads: items are cut to a fifth of it, and the oldest of the history give way.
    """

    backbone: Name = "smollm2-135m"
    max_tokens: Count = 1024


@dataclass(frozen=True)
class ZeroShotConfig(LanguageConfig):
    """Group E, Table 3: as it is."""


@dataclass(frozen=True)
class TunedLanguageConfig(LanguageConfig):
    """Fine-tuned with LoRA (section 4.3), or, with `lora_rank` 0, in every weight.

    `checkpointing` computes activations twice instead of keeping them.
    """

    lora_rank: Rank = 32
    lora_alpha: Count = 128
    lora_dropout: Rate = 0.1
    checkpointing: bool = False


@dataclass(frozen=True)
class ClickLanguageConfig(TunedLanguageConfig):
    """Fine-tuned to say whether the user is interested.

    An encoder reads the history once for all candidates, without seeing them; with `shared_history` false anew with
    each, and seeing it.
    """

    shared_history: bool = True


@dataclass(frozen=True)
class TextLanguageConfig(ClickLanguageConfig):
    """Group E, Table 4: items are their texts."""


@dataclass(frozen=True)
class P5Config(ClickLanguageConfig):
    """Group D: every item is a token of its own, with an embedding that is learnt (Geng et al. 2022)."""


@dataclass(frozen=True)
class SidLanguageConfig(CodedItems, ClickLanguageConfig):
    """Group F: an item is its semantic identifier, in new tokens."""


@dataclass(frozen=True)
class NextItemLanguageConfig(TunedLanguageConfig):
    """A language model that is asked for the next item, after at most `max_history` of them."""

    lora_rank: Rank = 128
    max_history: Count = 19


@dataclass(frozen=True)
class SeqP5Config(NextItemLanguageConfig):
    """Group I: every item is a token of its own, and the head scores the whole catalogue."""


@dataclass(frozen=True)
class SeqSidConfig(GeneratedItems, NextItemLanguageConfig):
    """Group J: an item is its semantic identifier, read and written code by code."""


@dataclass(frozen=True)
class EndpointConfig(ModelConfig):
    """Group E, Table 3: a language model behind an OpenAI-compatible endpoint, asked as it is.

    The key is read from the environment variable `key_from` when it is asked. For endpoints that refuse a parameter,
    `top_logprobs` 0 asks for no log-probabilities and `greedy` false for no temperature of 0; a number of
    `max_completion_tokens` takes the place of `max_tokens` 1, also for models that reason first. Prices are those per
    million tokens, for the estimate.
    """

    model: Name = "gpt-3.5-turbo"
    api_base: Name = "https://api.openai.com/v1"
    key_from: Name = "OPENAI_API_KEY"
    top_logprobs: Annotated[int, Meta(ge=0, le=20, description="an integer from 0 to 20")] = 20
    max_completion_tokens: Annotated[int, Meta(ge=0, description="an integer of at least 0")] = 0
    greedy: bool = True
    concurrency: Count = 8
    usd_per_million_prompt_tokens: Price = 0.5
    usd_per_million_completion_tokens: Price = 1.5


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
    "sasrec": SasRecConfig,
    "sid-sasrec": SidSasRecConfig,
    "zeroshot": ZeroShotConfig,
    "endpoint": EndpointConfig,
    "text": TextLanguageConfig,
    "p5": P5Config,
    "sid": SidLanguageConfig,
    "seq-p5": SeqP5Config,
    "seq-sid": SeqSidConfig,
}

Config = TypeVar("Config", bound=ModelConfig)


def kind_of(config: ModelConfig) -> str:
    """The key of CONFIGS that makes `config`; what a manifest stores beside `config_to_dict`."""
    return next(kind for kind, cls in CONFIGS.items() if cls is type(config))


def config_to_dict(config: ModelConfig) -> dict[str, Any]:
    """Every option of `config` by name, ready for JSON."""
    return dataclasses.asdict(config)


def config_from_dict(kind: str | type[ModelConfig], options: Mapping[str, Any]) -> ModelConfig:
    """The config of `kind`, a key of CONFIGS or a class, with `options` set and defaults for the rest.

    Raises UsageError for an unknown kind or option and for a value of the wrong type or out of range.
    """
    if isinstance(kind, str) and kind not in CONFIGS:
        raise unknown_name("kind of model", kind, CONFIGS)
    cls = CONFIGS[kind] if isinstance(kind, str) else kind
    for key in options:
        _check_known(key, cls)
    return cls(**options)


def with_options(config: Config, options: Mapping[str, Any]) -> Config:
    """A copy of `config` with some options changed; a string is read as the option's type ("512,256", "0.2").

    Raises UsageError for an unknown option and for a value of the wrong type or out of range.
    """
    hints = _hints(type(config))
    changes = {}
    for key, value in options.items():
        _check_known(key, type(config))
        changes[key] = _parsed(key, value, hints[key]) if isinstance(value, str) else value
    return dataclasses.replace(config, **changes)


def _hints(cls: type[ModelConfig]) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def _parsed(key: str, text: str, hint: Any) -> Any:
    """`text` from a command line as the value of type `hint` it stands for."""
    if hint is Widths:
        parts = [part.strip() for part in text.split(",")]
        return _checked(key, parts, hint, strict=False, shown=text)
    return _checked(key, text, hint, strict=False)


def _checked(key: str, value: Any, hint: Any, *, strict: bool, shown: Any = None) -> Any:
    """`value` as `hint` stores it (a list becomes a tuple, 0 becomes 0.0), or UsageError."""
    try:
        return msgspec.convert(value, hint, strict=strict)
    except msgspec.ValidationError:
        text = value if shown is None else shown
        raise UsageError(f"invalid option: {key}={text!r}", f"{key} takes {_expected(hint)}") from None


def _expected(hint: Any) -> str:
    if hint is bool:
        return "true or false"
    if get_origin(hint) is Literal:
        return f"one of: {', '.join(get_args(hint))}"
    return str(hint.__metadata__[0].description)


def _check_known(key: str, cls: type[ModelConfig]) -> None:
    if key not in _hints(cls):
        raise unknown_name("option", key, _hints(cls))


def _check_divides(heads: int, what: str, width: int) -> None:
    if width % heads:
        raise UsageError(
            f"invalid option: heads={heads} does not divide the {what}, {width}", "change one of the two"
        )
