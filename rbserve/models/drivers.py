"""How models of transformers are driven: embedded tokens, positions and a mask in, hidden states and a cache out.

Most architectures take all of that in their own forward. MPT, MPNet and T5 make positions and masks of the order of a
sequence, and know no packed prompts: here their own modules are run layer by layer, with what is given.

These three add to attention what the distance from query to key says. The mask tells where a key stands, cached or
not: a token attends to what is at positions 0, 1, 2, … of its own prompt, in this order (prompts.py: Packed).

Shapes: B rows of L tokens after P in the cache, layers, H heads of C numbers each, width d. A cache is
[layers, 2, B, H, P, C].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

MPNET_FIRST = 2
"""MPNet's number for the first position; those up to its padding's are not used."""

Drive = Callable[[Any, Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""(base, embedded [B, L, d], positions int[B, L], mask bool[B, L, P + L], cache of the P tokens before or None) to
hidden states [B, L, d] and the cache of the L tokens; that one is empty in training, and of a model that keeps none."""


@dataclass(frozen=True)
class Layerwise:
    """How an encoder is driven some layers at a time, so that parts of a prompt can meet late (`lm.py`).

    `embed`: (base, embedded [B, L, d], positions int[B, L]) to the states [B, L, d] that the first layer reads. `run`:
    (base, states [B, L, d], mask bool[B, L, P + L], cache of these layers or None, which layers) to the states
    [B, L, d] behind these layers and a cache [2, B, H, L, C] of each.
    """

    embed: Callable[[Any, Tensor, Tensor], Tensor]
    run: Callable[[Any, Tensor, Tensor, Tensor | None, slice], tuple[Tensor, list[Tensor]]]


@dataclass(frozen=True)
class Architecture:
    """What drives an architecture, and how it reads.

    A decoder reads from left to right; an encoder in both directions, and it answers at a [MASK]; an encoder-decoder
    in both directions, and it answers with its decoder's first word and keeps no cache. `recomputes`: whether its
    activations can be computed twice instead of kept (gradient checkpointing). `layerwise`: how it runs some of its
    layers; None where it runs all of them or none. `layers` is the base's list of layers, empty for a model that has
    two; `layer_end` the part of a layer whose output is the layer's, empty for all of it.
    """

    drive: Drive
    reads: Literal["decoder", "encoder", "encoder-decoder"] = "decoder"
    recomputes: bool = True
    layerwise: Layerwise | None = None
    layers: str = "layers"
    layer_end: str = ""


def decoder(
    base: Any, embedded: Tensor, positions: Tensor, mask: Tensor, past: Tensor | None
) -> tuple[Tensor, Tensor]:
    """By the model's own forward, with an additive mask; see Drive."""
    whole = base.get_base_model() if hasattr(base, "get_base_model") else base  # adapters stand around it
    return _own_forward(base, whole, embedded, mask, past, inputs_embeds=embedded, position_ids=positions)


def bert(
    base: Any, embedded: Tensor, positions: Tensor, mask: Tensor, past: Tensor | None
) -> tuple[Tensor, Tensor]:
    """By the encoder's own forward, with an additive mask; see Drive.

    BERT makes segments for as many tokens as it has positions; packed prompts are longer. Its whole forward takes
    another kind of mask in transformers 4 than in 5; its encoder takes one kind in both.
    """
    hidden = _embed_bert(base, embedded, positions)
    return _own_forward(base, base.encoder, embedded, mask, past, hidden_states=hidden)


def _embed_bert(base: Any, embedded: Tensor, positions: Tensor) -> Tensor:
    segments = torch.zeros_like(positions)
    hidden: Tensor = base.embeddings(inputs_embeds=embedded, position_ids=positions, token_type_ids=segments)
    return hidden


def _run_bert(
    base: Any, hidden: Tensor, mask: Tensor, past: Tensor | None, chosen: slice
) -> tuple[Tensor, list[Tensor]]:
    """Some of BERT's layers; see Layerwise."""
    bias = _blocked(mask, hidden.new_zeros(()))[:, None]
    states = []
    for layer, before in _with_past(base.encoder.layer[chosen], past):
        own = layer.attention.self
        products = own.query(hidden), own.key(hidden), own.value(hidden)
        context, new = _attend(products, before, bias, own.num_attention_heads)
        attended = layer.attention.output(context, hidden)
        hidden = layer.output(layer.intermediate(attended), attended)
        states.append(new)
    return hidden, states


def mpt(
    base: Any, embedded: Tensor, positions: Tensor, mask: Tensor, past: Tensor | None
) -> tuple[Tensor, Tensor]:
    """MPT, whose heads lose interest with distance (ALiBi, Press et al. 2022, as transformers has it); see Drive."""
    one_back = base.build_mpt_alibi_tensor(base.num_heads, 2, device=embedded.device)[:, :, :1]
    bias = _blocked(mask[:, None], -_distance(positions, mask)[:, None] * one_back)
    hidden, states = embedded, []
    for block, before in _with_past(base.blocks, past):
        own = block.attn
        products = own.Wqkv(block.norm_1(hidden))
        if own.clip_qkv:
            products = products.clamp(-own.clip_qkv, own.clip_qkv)
        context, new = _attend(products.chunk(3, -1), before, bias, own.n_heads, own.softmax_scale)
        hidden = hidden + block.resid_attn_dropout(own.out_proj(context))
        hidden = block.ffn(block.norm_2(hidden), hidden)
        states.append(new)
    return base.norm_f(hidden), _present(base, states)


def mpnet(
    base: Any, embedded: Tensor, positions: Tensor, mask: Tensor, past: Tensor | None
) -> tuple[Tensor, Tensor]:
    """MPNet, whose positions begin behind its padding's, and whose heads have a bias for each distance; see Drive."""
    hidden = _embed_mpnet(base, embedded, positions)
    hidden, states = _run_mpnet(base, hidden, mask, past, slice(None), positions)
    return hidden, _present(base, states)


def _embed_mpnet(base: Any, embedded: Tensor, positions: Tensor) -> Tensor:
    hidden: Tensor = base.embeddings(inputs_embeds=embedded, position_ids=positions + MPNET_FIRST)
    return hidden


def _run_mpnet(
    base: Any, hidden: Tensor, mask: Tensor, past: Tensor | None, chosen: slice,
    positions: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """Some of MPNet's layers, where each token stands in its own prompt by default; see Layerwise."""
    encoder = base.encoder
    distance = _distance(_places(mask) if positions is None else positions, mask)
    buckets = encoder.relative_position_bucket(distance)
    bias = _blocked(mask[:, None], encoder.relative_attention_bias(buckets).permute(0, 3, 1, 2))
    states = []
    for layer, before in _with_past(encoder.layer[chosen], past):
        own = layer.attention.attn
        products = own.q(hidden), own.k(hidden), own.v(hidden)
        context, new = _attend(products, before, bias, own.num_attention_heads)
        attended = layer.attention.LayerNorm(layer.attention.dropout(own.o(context)) + hidden)
        hidden = layer.output(layer.intermediate(attended), attended)
        states.append(new)
    return hidden, states


def t5(
    base: Any, embedded: Tensor, positions: Tensor, mask: Tensor, _past: Tensor | None
) -> tuple[Tensor, Tensor]:
    """T5: each row is one prompt, read by the encoder; whatever place is read, the decoder's first word answers.

    See Drive. What the first token does not attend to is filling.
    """
    own = base.encoder.block[0].layer[0].SelfAttention
    buckets = own._relative_position_bucket(
        _distance(positions, mask),
        num_buckets=own.relative_attention_num_buckets,
        max_distance=own.relative_attention_max_distance,
    )
    bias = _blocked(mask[:, None], own.relative_attention_bias(buckets).permute(0, 3, 1, 2))
    encoded = _t5_stack(base.encoder, embedded, position_bias=bias)
    nothing = embedded.new_zeros(1, 1, 1, 1)
    start = torch.full_like(positions[:, :1], base.config.decoder_start_token_id)
    answer = _t5_stack(
        base.decoder, base.shared(start), position_bias=nothing, encoder_hidden_states=encoded,
        encoder_decoder_position_bias=_blocked(mask[:, None, :1], nothing), cache_position=start[0],
    )  # fmt: skip
    return answer.expand_as(embedded), embedded.new_empty(0)


def _t5_stack(stack: Any, hidden: Tensor, **inputs: Tensor) -> Tensor:
    hidden = stack.dropout(hidden)
    for block in stack.block:
        hidden = block(hidden, **inputs)[0]
    last: Tensor = stack.dropout(stack.final_layer_norm(hidden))
    return last


GROUPED = "rbserve-grouped"
"""What transformers knows `grouped_attention` as, in exporters/runtimes/language.py."""

ARCHITECTURES: dict[str, Architecture] = {
    "bert": Architecture(
        bert, "encoder", layerwise=Layerwise(_embed_bert, _run_bert), layers="encoder.layer"
    ),
    "glm": Architecture(decoder),
    "llama": Architecture(decoder),
    "mistral": Architecture(decoder),
    "mpnet": Architecture(
        mpnet,
        "encoder",
        recomputes=False,
        layerwise=Layerwise(_embed_mpnet, _run_mpnet),
        layers="encoder.layer",
        layer_end="output",
    ),
    "mpt": Architecture(mpt, recomputes=False, layers="blocks", layer_end="ffn"),
    "opt": Architecture(decoder, layers="decoder.layers"),
    "phi": Architecture(decoder),
    "qwen2": Architecture(decoder),
    "t5": Architecture(t5, "encoder-decoder", layers=""),
}


def read_config(path: Path) -> Any:
    """transformers' config in a file or a directory, whichever version of transformers wrote it."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
    if int(transformers.__version__.split(".")[0]) < 5:
        _in_words_of_4(config)
    return config


def _in_words_of_4(config: Any) -> None:
    """Gives version 4 of transformers what version 5 writes under names that version 4 would pass over."""
    rope = getattr(config, "rope_parameters", None) or {}
    for name in rope.keys() & {"rope_theta", "partial_rotary_factor"}:
        setattr(config, name, rope[name])
    if rope.get("rope_type", "default") != "default":
        config.rope_scaling = rope
    if not getattr(config, "scale_decoder_outputs", True):  # T5 with a head of its own
        config.tie_word_embeddings = False


def architecture_of(config: Any) -> Architecture:
    """The architecture of transformers' `config`, one of ARCHITECTURES."""
    return ARCHITECTURES[config.model_type]


def most_tokens(config: Any) -> int | None:
    """Tokens of the longest prompt that a model of transformers' `config` reads; None where it does not say."""
    if config.model_type == "mpnet":
        return int(config.max_position_embeddings) - MPNET_FIRST
    names = ("max_position_embeddings", "max_seq_len", "n_positions")
    return next((int(most) for name in names if (most := getattr(config, name, None))), None)


def _own_forward(
    base: Any, module: Any, embedded: Tensor, mask: Tensor, past: Tensor | None, **given: Tensor
) -> tuple[Tensor, Tensor]:
    """What `module`, a model or its encoder, makes of what is given, an additive mask and the cache; see Drive."""
    from transformers import DynamicCache

    cache = DynamicCache()
    for layer, keys_values in enumerate(past if past is not None else ()):
        cache.update(keys_values[0], keys_values[1], layer)
    training = base.training  # where activations are computed twice, a cache would be filled twice
    output = module(
        attention_mask=_blocked(mask, embedded.new_zeros(()))[:, None], use_cache=not training,
        **{_cache_argument(module): None if training else cache}, **given,
    )  # fmt: skip
    layers: Sequence[Any] = () if training else cache.layers
    length = embedded.size(1)
    new = [torch.stack((layer.keys[:, :, -length:], layer.values[:, :, -length:])) for layer in layers]
    return output.last_hidden_state, _present(base, new)


def _cache_argument(module: Any) -> str:
    """What a forward of transformers calls its cache, which releases of version 5 have renamed."""
    return "cache" if "cache" in signature(module.forward).parameters else "past_key_values"


def grouped_attention(
    _module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention for exported graphs, by transformers' interface.

    Queries are [B, H, L, C], keys and values [B, G, P + L, C]. The H / G heads that share keys are rows of one
    product, where the usual way copies the keys for each of them.
    """
    rows, length = query.size(0), query.size(2)
    heads, groups, width = int(query.size(1)), int(key.size(1)), int(query.size(3))  # constants in a graph
    scale = width**-0.5 if scaling is None else scaling
    together = query.reshape(rows, groups, heads // groups * length, width)
    scores = (together @ key.transpose(-1, -2)) * scale
    if mask is not None:
        scores = scores.reshape(rows, groups, heads // groups, length, -1) + mask[:, :, None]
    weights = scores.softmax(-1).reshape(rows, groups, heads // groups * length, -1)
    context = (weights @ value).reshape(rows, heads, length, width)
    return context.transpose(1, 2), None


def _distance(positions: Tensor, mask: Tensor) -> Tensor:
    """Position of each key less its query's, int[B, L, P + L], where the one attends to the other."""
    return mask.long().cumsum(-1) - 1 - positions.unsqueeze(-1)


def _places(mask: Tensor) -> Tensor:
    """Where each token stands among those that it attends to, itself included: int[B, L] of mask bool[B, L, P + L]."""
    rows, length, total = mask.shape
    own = torch.arange(length, device=mask.device) + (total - length)
    return (mask.long().cumsum(-1) - 1).gather(2, own.view(1, -1, 1).expand(rows, -1, 1)).squeeze(-1)


def _blocked(mask: Tensor, bias: Tensor) -> Tensor:
    """What is added to attention: `bias` where the mask lets attend, and next to minus infinity elsewhere."""
    return torch.where(mask, bias, torch.full_like(bias, torch.finfo(bias.dtype).min))


def _attend(
    products: Sequence[Tensor], past: Tensor | None, bias: Tensor, heads: int, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """Attention of queries, keys and values [B, L, H * C] each: [B, L, H * C], and a cache of the last two."""
    query, key, value = (
        product.reshape(*product.shape[:2], heads, -1).transpose(1, 2) for product in products
    )
    new = torch.stack((key, value))
    keys, values = (new if past is None else torch.cat((past, new), -2)).unbind(0)
    context = F.scaled_dot_product_attention(query, keys, values, bias.to(query.dtype), scale=scale)
    return context.transpose(1, 2).flatten(2), new


def _with_past(layers: Iterable[Any], past: Tensor | None) -> Iterable[tuple[Any, Tensor | None]]:
    """Each layer, and its part of the cache."""
    return zip(layers, repeat(None) if past is None else past.unbind(0), strict=False)


def _present(base: Any, states: Sequence[Tensor]) -> Tensor:
    """The cache of all layers; none in training."""
    return torch.empty(0) if base.training else torch.stack(list(states))
