"""Language models as recommenders (the paper's groups D, E, F, I and J), whatever their architecture.

One module for all recipes: a model of transformers without its head, the rows of a head for the answers that are
asked for and no others, and new tokens where items are tokens of their own. It is called with an explicit attention
mask and explicit positions (drivers.py), so the prompts of one user's candidates can be packed behind the history that
they share, and a history that was read before comes as a cache.

The parts of an encoder's prompt can meet late (PreTTR, MacAvaney et al. 2020; MICE, 2026): in the first `meet` layers
history and candidates attend only to themselves, so that a candidate's states behind these layers depend on the
candidate alone and can be computed before there is a request. Where the parts meet behind the last layer, only the
means of their states are compared.

Shapes: B rows of L tokens, after P tokens in the cache; N answers a row, each over K answer tokens; layers, H heads
of C numbers each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rbserve.models.code_scores import code_scores
from rbserve.models.drivers import Layerwise, architecture_of


class LanguageModel(nn.Module):
    """Logits of answer tokens at chosen places of packed prompts."""

    def __init__(
        self, base: nn.Module, head: nn.Linear, transform: nn.Module | None = None, new_tokens: int = 0,
        meet: int = 0,
    ) -> None:  # fmt: skip
        """`base` is a model of transformers that ends in hidden states, `transform` what its own head does before the
        product with the token embeddings (encoders), `head` the rows [K, d] of that product which are asked for.
        In the first `meet` layers the parts of a prompt do not attend to one another."""
        super().__init__()
        self.base, self.head, self.meet = base, head, meet
        self.transform = transform or nn.Identity()
        width = cast(nn.Embedding, base.get_input_embeddings()).embedding_dim  # type: ignore[operator]
        self.new_embedding = nn.Embedding(new_tokens, width) if new_tokens else None

    @torch.no_grad()
    def add_tokens(self, number: int) -> None:
        """New tokens behind the vocabulary, drawn like the embeddings that are there."""
        old = cast(nn.Embedding, self.base.get_input_embeddings()).weight  # type: ignore[operator]
        self.new_embedding = nn.Embedding(number, old.size(1), device=old.device)
        drawn = torch.randn(number, old.size(1), device=old.device)
        self.new_embedding.weight.copy_(old.mean(0) + old.std() * drawn)

    @property
    def vocabulary(self) -> int:
        """Tokens of the base model: the first new one's number."""
        return int(cast(nn.Embedding, self.base.get_input_embeddings()).num_embeddings)  # type: ignore[operator]

    @property
    def pairs(self) -> bool:
        """Whether answers are read of the means of two parts of a prompt (`PairTransform`), not of one token."""
        return isinstance(self.transform, PairTransform)

    @property
    def config(self) -> Any:
        """The base model's own config."""
        return self.base.config

    def forward(
        self, tokens: Tensor, positions: Tensor, mask: Tensor, read: Tensor, past: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits [B, N, K] at places read int[B, N] of tokens int[B, L], and the cache [layers, 2, B, H, L, C] of
        these tokens. mask bool[B, L, P + L] says what each token attends to; `past` is the cache of the P before.
        """
        hidden, present = self.hidden(tokens, positions, mask, past)
        return self.answers(hidden, mask, read, past), present

    def answers(self, hidden: Tensor, mask: Tensor, read: Tensor, past: Tensor | None = None) -> Tensor:
        """Logits [B, N, K] at places int[B, N] of hidden states [B, L, d]."""
        if self.pairs:
            read_states: tuple[Tensor, ...] = _means(hidden, mask, read, past)
        else:
            read_states = (hidden[torch.arange(hidden.size(0), device=hidden.device)[:, None], read],)
        logits: Tensor = self.head(self.transform(*read_states))
        return logits

    def hidden(
        self, tokens: Tensor, positions: Tensor, mask: Tensor, past: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Hidden states [B, L, d] and the cache [layers, 2, B, H, L, C] of tokens int[B, L]; empty in training.

        Where answers are read of means, the cache has one layer more: the hidden states themselves, and zeros. Where
        the parts of a prompt meet late, the cache is that of the layers in which they do (`late`).
        """
        if self.meet:
            own = mask[:, :, mask.size(2) - mask.size(1) :]
            return self.late(self.early(tokens, positions, own & own.transpose(1, 2)), mask, past)
        drive = architecture_of(self.config).drive
        if not self.pairs:
            return drive(self.base, self.embed(tokens), positions, mask, past)
        hidden, present = drive(
            self.base, self.embed(tokens), positions, mask, None if past is None else past[:-1]
        )
        if self.base.training:
            return hidden, present
        return hidden, torch.cat((present, _hidden_layer(hidden, present.size(3))[None]))

    def early(self, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """States [B, L, d] of tokens int[B, L] behind the layers in which the parts of a prompt are apart.

        mask bool[B, L, L] lets a token attend to its own part alone, where it stands at its position.
        """
        layers = self._layerwise
        states = layers.embed(self.base, self.embed(tokens), positions)
        return layers.run(self.base, states, mask, None, slice(self.meet))[0]

    def late(self, states: Tensor, mask: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Hidden states [B, L, d], and the cache of the layers in which the parts meet, from the `early` states
        [B, L, d]; see `hidden`.
        """
        known = past[:-1] if past is not None and self.pairs else past
        hidden, caches = self._layerwise.run(self.base, states, mask, known, slice(self.meet, None))
        if self.base.training:
            return hidden, hidden.new_empty(0)
        if self.pairs:
            caches.append(_hidden_layer(hidden, self.config.num_attention_heads))
        return hidden, torch.stack(caches)

    @property
    def _layerwise(self) -> Layerwise:
        layers = architecture_of(self.config).layerwise
        assert layers is not None, "checked where the option is read"
        return layers

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings [B, L, d]; tokens past the base model's vocabulary are the new ones."""
        old = cast(nn.Embedding, self.base.get_input_embeddings())  # type: ignore[operator]
        if self.new_embedding is None:
            embedded: Tensor = old(tokens)
            return embedded
        known = self.vocabulary
        is_new = (tokens >= known).unsqueeze(-1)
        new = self.new_embedding((tokens - known).clamp(min=0))
        return torch.where(is_new, new, old(tokens.clamp(max=known - 1)))


class ClickModel(nn.Module):
    """The probability of a click: softmax over the answers for yes and for no (eq. 6).

    The first `yes` rows of the language model's head are the ways to say yes, the others those to say no.
    """

    def __init__(self, language: LanguageModel, yes: int) -> None:
        super().__init__()
        self.language, self.yes = language, yes

    def forward(
        self, tokens: Tensor, positions: Tensor, mask: Tensor, read: Tensor, past: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-odds [B, N] of a click, and the cache; see LanguageModel."""
        logits, present = self.language(tokens, positions, mask, read, past)
        return self.odds(logits), present

    def odds(self, logits: Tensor) -> Tensor:
        """Log-odds [...] of a click from the answers' logits [..., K]."""
        logits = logits.float()
        return logits[..., : self.yes].logsumexp(-1) - logits[..., self.yes :].logsumexp(-1)


class EarlyLayers(nn.Module):
    """The layers of a model in which the parts of a prompt are apart."""

    def __init__(self, model: ClickModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """States [B, L, d]; see LanguageModel.early."""
        return self.model.language.early(tokens, positions, mask)


class LateLayers(nn.Module):
    """The layers of a model in which the parts of a prompt meet, and its answers."""

    def __init__(self, model: ClickModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, states: Tensor, mask: Tensor, read: Tensor, past: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-odds [B, N] of a click at places read int[B, N] of states [B, L, d], and the cache; see LanguageModel."""
        language = self.model.language
        hidden, present = language.late(states, mask, past)
        return self.model.odds(language.answers(hidden, mask, read, past)), present


class Answers(nn.Module):
    """What a model says that keeps no cache."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, positions: Tensor, mask: Tensor, read: Tensor) -> Tensor:
        """The model's answers alone; see LanguageModel and ClickModel."""
        answers: Tensor = self.model(tokens, positions, mask, read)[0]
        return answers


class ItemScoreHead(nn.Module):
    """What a language model says of every item: by a head for the whole catalogue, or by heads for items' codes."""

    def __init__(self, language: LanguageModel) -> None:
        super().__init__()
        self.language = language

    def forward(
        self, tokens: Tensor, positions: Tensor, mask: Tensor, read: Tensor, codes: Tensor | None = None
    ) -> Tensor:
        """Scores [B, n] of all items after the place that is read, int[B, 1].

        With the items' code tokens `codes` int[L, n] the answers are logits of codes (`code_scores.py`).
        """
        answers, _ = self.language(tokens, positions, mask, read)
        scores: Tensor = answers[:, 0]
        return scores if codes is None else code_scores(scores.float(), codes)


class MaskedWordTransform(nn.Module):
    """What an encoder's masked-word head does to a hidden state before the product with the word embeddings."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.dense, self.norm = nn.Linear(width, width), nn.LayerNorm(width, eps=epsilon)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., d] -> [..., d]"""
        transformed: Tensor = self.norm(F.gelu(self.dense(hidden)))
        return transformed


class PairTransform(nn.Module):
    """How two texts relate, by an encoder of sentences: of their means u and v, (u, v, u * v, |u - v|), mixed.

    The means are what such an encoder was taught; the pair as Sentence-BERT has it (Reimers & Gurevych 2019), and the
    product of the two, whose sum is what their likeness was taught by.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.LayerNorm(width, elementwise_affine=False)
        self.dense, self.norm = nn.Linear(4 * width, width), nn.LayerNorm(width)

    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        """[..., d] and [..., d] -> [..., d]"""
        u, v = self.scale(u), self.scale(v)
        transformed: Tensor = self.norm(F.gelu(self.dense(torch.cat((u, v, u * v, (u - v).abs()), -1))))
        return transformed


def _means(hidden: Tensor, mask: Tensor, read: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
    """Means [B, N, d] of the hidden states before a place's own part of a prompt, and of those in it.

    Its own part are the tokens that it attends to and that attend to it; before are those that do not.
    """
    rows = torch.arange(hidden.size(0), device=hidden.device)[:, None]
    sees, before = mask[rows, read], mask.size(2) - mask.size(1)
    own = sees[:, :, before:] & mask[:, :, before:].transpose(1, 2)[rows, read]
    earlier = torch.cat((sees[:, :, :before], sees[:, :, before:] & ~own), 2)
    known = hidden
    if past is not None:  # joined by heads, for of no tokens at all these cannot be joined again
        known = torch.cat((past[-1, 0], _by_heads(hidden, past.size(3))), 2).transpose(1, 2).flatten(2)
    return _mean(known, earlier), _mean(hidden, own)


def _by_heads(hidden: Tensor, heads: int) -> Tensor:
    """[B, L, d] -> [B, H, L, C]"""
    return hidden.reshape(*hidden.shape[:2], heads, -1).transpose(1, 2)


def _hidden_layer(hidden: Tensor, heads: int) -> Tensor:
    """Hidden states [B, L, d] as a layer of a cache, [2, B, H, L, C]: themselves, and zeros."""
    own = _by_heads(hidden, heads)
    return torch.stack((own, torch.zeros_like(own)))


def _mean(hidden: Tensor, chosen: Tensor) -> Tensor:
    """Means [B, N, d] of those of hidden states [B, L, d] that bool[B, N, L] says; of none, zero."""
    weights = chosen.to(hidden.dtype)
    return weights @ hidden / weights.sum(-1, keepdim=True).clamp(min=1)


def as_decoder(config: Any) -> Any:
    """The config, of BERT too, as one whose attention takes a cache and the mask it is given."""
    if config.model_type == "bert":
        config.is_decoder, config.add_cross_attention = True, False
    config.use_cache = True
    return config


def bare(base: Any) -> None:
    """Takes off what nothing here asks: an encoder's pooler; T5's head and its other names of the word embeddings."""
    stacks = (base.encoder, base.decoder) if base.config.model_type == "t5" else ()
    for owner, part in ((base, "pooler"), (base, "lm_head"), *((stack, "embed_tokens") for stack in stacks)):
        if hasattr(owner, part):
            setattr(owner, part, None)


def empty_past(model: nn.Module, rows: int = 1) -> Tensor:
    """A model's cache of no tokens at all, float32[layers, 2, rows, H, 0, C]; see `LanguageModel.hidden`."""
    language = model.language if isinstance(model, ClickModel) else cast(LanguageModel, model)
    config = language.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    layers = config.num_hidden_layers - language.meet + language.pairs
    return torch.zeros(layers, 2, rows, heads, 0, width)


def rebuild(config: Any, weights: Mapping[str, Tensor], meet: int = 0) -> LanguageModel:
    """The model whose state `weights` is, over a base of transformers' `config`; without memory for a second copy."""
    from accelerate import init_empty_weights
    from transformers import AutoModel

    with init_empty_weights(include_buffers=False):
        base = AutoModel.from_config(as_decoder(config))  # type: ignore[no-untyped-call]
        answers, width = weights["head.weight"].shape
        head = nn.Linear(width, answers, bias="head.bias" in weights)
        dense, new = weights.get("transform.dense.weight"), weights.get("new_embedding.weight")
        transform: nn.Module | None = None
        if dense is not None:
            of_pairs = dense.size(1) > width
            transform = (
                PairTransform(width) if of_pairs else MaskedWordTransform(width, config.layer_norm_eps)
            )
        language = LanguageModel(base, head, transform, 0 if new is None else len(new), meet)
    bare(base)
    language.load_state_dict(weights, assign=True)
    return language


def rebuild_click_model(config: Any, weights: Mapping[str, Tensor], yes: int, meet: int = 0) -> ClickModel:
    """Rebuilds a model that answers yes or no, from its config and weights."""
    own = {name.removeprefix("language."): value for name, value in weights.items()}
    return ClickModel(rebuild(config, own, meet), yes)
