"""Each CTR model against its published definition, written here in NumPy, one row and one loop at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from equations import Array, Weights, hidden, layer_norm, linear, relu, sigmoid, softmax
from history_equations import HISTORY_CASES
from torch import Tensor, nn

from rbserve.models.attention import HistoryModel
from rbserve.models.configs import (
    CONFIGS,
    AutoIntConfig,
    BstEmbConfig,
    CtrConfig,
    DcnConfig,
    DcnV2Config,
    DeepFmConfig,
    DinEmbConfig,
    DnnConfig,
    EmbeddingItems,
    FinalMlpConfig,
    GdcnConfig,
    HstuEmbConfig,
    ItemLanguageConfig,
    MaskNetConfig,
    PnnConfig,
    TextItems,
)
from rbserve.models.ctr import MODULES, build
from rbserve.models.ctr_base import CtrModel
from rbserve.models.layers import PairLinear

Definition = Callable[[Weights, Any, Array, Array], Array]
"""The logit by a config, u (the items of the history [T, d], for a model that reads them one by one) and t."""

N_ITEMS = 13
SMALL: dict[str, Any] = {"dim": 4, "hidden": (10, 8, 6), "dropout": 0.2}
HISTORIES = [[1, 2, 3], [], [4], [12, 12, 0, 5, 7], [6, 1]]
CANDIDATES = [3, 0, 12, 5, 9]


def dnn(w: Weights, _: Any, u: Array, t: Array) -> Array:
    return linear(w, "output", hidden(w, "deep", np.concatenate([u, t])))


def pnn(w: Weights, _: Any, u: Array, t: Array) -> Array:
    return linear(w, "output", hidden(w, "deep", np.concatenate([u, t, [u @ t]])))


def deepfm(w: Weights, config: CtrConfig, u: Array, t: Array) -> Array:
    fields = [u[:-1], t[:-1]]
    logit = dnn(w, config, *fields) + float(u[-1]) + float(t[-1])
    for d in range(config.dim):
        logit += 0.5 * (sum(e[d] for e in fields) ** 2 - sum(e[d] ** 2 for e in fields))
    return logit


def cross_and_deep(w: Weights, config: DcnV2Config | GdcnConfig, crossed: Array, x: Array) -> Array:
    if config.structure == "stacked":
        return linear(w, "head.output", hidden(w, "head.deep", crossed))
    return linear(w, "head.output", np.concatenate([crossed, hidden(w, "head.deep", x)]))


def dcn(w: Weights, config: DcnConfig, u: Array, t: Array) -> Array:
    x = x0 = np.concatenate([u, t])
    for layer in range(config.cross_layers):
        name = f"head.cross.layers.{layer}"
        x = x0 * (w[f"{name}.weight.weight"][0] @ x) + w[f"{name}.bias"] + x
    return linear(w, "head.output", np.concatenate([x, hidden(w, "head.deep", x0)]))


def dcnv2(w: Weights, config: DcnV2Config, u: Array, t: Array) -> Array:
    x = x0 = np.concatenate([u, t])
    for layer in range(config.cross_layers):
        x = x0 * linear(w, f"head.cross.layers.{layer}.linear", x) + x
    return cross_and_deep(w, config, x, x0)


def dcnv2_mix(w: Weights, config: DcnV2Config, u: Array, t: Array) -> Array:
    x = x0 = np.concatenate([u, t])
    for layer in range(config.cross_layers):
        name = f"head.cross.layers.{layer}"
        gates = softmax(w["head.cross.gate.weight"] @ x)
        mixture = np.zeros_like(x)
        for i in range(config.experts):
            rows = slice(i * config.rank, (i + 1) * config.rank)
            V, U = w[f"{name}.down.weight"][rows].T, w[f"{name}.up.weight"][:, rows]
            C, b = w[f"{name}.core"][i].T, w[f"{name}.up.bias"]
            mixture += gates[i] * x0 * (U @ np.tanh(C @ np.tanh(V.T @ x)) + b)
        x = mixture + x
    return cross_and_deep(w, config, x, x0)


def gdcn(w: Weights, config: GdcnConfig, u: Array, t: Array) -> Array:
    x = x0 = np.concatenate([u, t])
    for layer in range(config.cross_layers):
        name = f"head.cross.layers.{layer}"
        x = x0 * linear(w, f"{name}.linear", x) * sigmoid(w[f"{name}.gate.weight"] @ x) + x
    return cross_and_deep(w, config, x, x0)


def masknet(w: Weights, config: MaskNetConfig, u: Array, t: Array) -> Array:
    embeddings = np.concatenate([u, t])
    normed = np.concatenate([layer_norm(w, "norm_user", u), layer_norm(w, "norm_item", t)])

    def block(i: int, h: Array) -> Array:
        mask = linear(w, f"blocks.{i}.project", relu(linear(w, f"blocks.{i}.aggregate", embeddings)))
        return relu(layer_norm(w, f"blocks.{i}.norm", linear(w, f"blocks.{i}.hidden", mask * h)))

    if config.structure == "parallel":
        side_by_side = np.concatenate([block(i, normed) for i in range(config.blocks)])
        return linear(w, "output", hidden(w, "deep", side_by_side))
    for i in range(len(config.hidden)):
        normed = block(i, normed)
    return linear(w, "output", normed)


def finalmlp(w: Weights, config: FinalMlpConfig, u: Array, t: Array) -> Array:
    def gated(name: str, context: Array) -> Array:
        if not config.gates:
            return np.concatenate([u, t])
        inner = relu(linear(w, f"{name}.mlp.0.0", context))
        return np.concatenate([u, t]) * 2 * sigmoid(linear(w, f"{name}.mlp.1", inner))

    a = hidden(w, "first_stream", gated("user_gate", u))
    b = hidden(w, "second_stream", gated("item_gate", t))
    logit = linear(w, "fusion.linear", np.concatenate([a, b]))
    for W, a_h, b_h in zip(
        w["fusion.bilinear"], np.split(a, config.heads), np.split(b, config.heads), strict=True
    ):
        logit = logit + a_h @ W @ b_h
    return logit


def autoint(w: Weights, config: AutoIntConfig, u: Array, t: Array) -> Array:
    fields = [u, t]
    for layer in range(config.attention_layers):
        fields = [attended(w, f"attention.{layer}", config.heads, fields, i) for i in range(2)]
    return linear(w, "attention_output", np.concatenate(fields)) + dnn(w, config, u, t)


def attended(w: Weights, name: str, heads: int, fields: list[Array], i: int) -> Array:
    W_q, W_k, W_v = np.split(w[f"{name}.query_key_value.weight"], 3)

    def head(W: Array, h: int, e: Array) -> Array:
        return np.split(W @ e, heads)[h]

    outputs = []
    for h in range(heads):
        weights = softmax(np.array([head(W_q, h, fields[i]) @ head(W_k, h, e) for e in fields]))
        outputs.append(weights[0] * head(W_v, h, fields[0]) + weights[1] * head(W_v, h, fields[1]))
    residual = w.get(f"{name}.residual.weight", np.eye(len(fields[i]))) @ fields[i]
    return relu(np.concatenate(outputs) + residual)


CASES: dict[str, tuple[CtrConfig, Definition]] = {
    "dnn": (DnnConfig(**SMALL), dnn),
    "pnn": (PnnConfig(**SMALL), pnn),
    "deepfm": (DeepFmConfig(**SMALL), deepfm),
    "dcn": (DcnConfig(**SMALL, cross_layers=2), dcn),
    "dcnv2-parallel": (DcnV2Config(**SMALL, mix=False), dcnv2),
    "dcnv2-stacked": (DcnV2Config(**SMALL, mix=False, structure="stacked"), dcnv2),
    "dcnv2-mix-parallel": (DcnV2Config(**SMALL, rank=3, experts=5), dcnv2_mix),
    "dcnv2-mix-stacked": (DcnV2Config(**SMALL, rank=2, experts=3, structure="stacked"), dcnv2_mix),
    "masknet-parallel": (MaskNetConfig(**SMALL, blocks=3, block_dim=5), masknet),
    "masknet-serial": (MaskNetConfig(**SMALL, structure="serial", reduction_ratio=1.5), masknet),
    "finalmlp": (FinalMlpConfig(**SMALL, second_hidden=(9, 5, 4), heads=2, gate_hidden=(7,)), finalmlp),
    "finalmlp-ungated": (FinalMlpConfig(**SMALL, second_hidden=(9, 5, 4), gates=False), finalmlp),
    "autoint": (AutoIntConfig(**SMALL, attention_dim=4, heads=2), autoint),
    "autoint-projected": (AutoIntConfig(**SMALL, attention_dim=6, heads=3), autoint),
    "gdcn-parallel": (GdcnConfig(**SMALL), gdcn),
    "gdcn-stacked": (GdcnConfig(**SMALL, structure="stacked"), gdcn),
    **HISTORY_CASES,
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[CtrModel, Definition]:
    """A model in eval mode and float64, every weight random, and its definition."""
    config, definition = CASES[request.param]
    model = build(config, N_ITEMS).double().eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5, generator=generator)
    return model, definition


@pytest.fixture
def model(case: tuple[CtrModel, Definition]) -> CtrModel:
    return case[0]


def batch_logits(model: CtrModel, histories: list[list[int]], candidates: list[int]) -> Tensor:
    values = torch.tensor([item for history in histories for item in history], dtype=torch.int32)
    offsets = torch.tensor(np.cumsum([0, *map(len, histories)]))
    logits: Tensor = model(values, offsets, torch.tensor(candidates, dtype=torch.int32))
    return logits


def slate(model: CtrModel, history: list[int], candidates: list[int]) -> Tensor:
    return model.score(torch.tensor(history, dtype=torch.int32), torch.tensor(candidates, dtype=torch.int32))


def test_every_architecture_has_a_module_and_a_case() -> None:
    own = {cls for cls in CONFIGS.values() if issubclass(cls, CtrConfig)}
    own -= {cls for cls in own if issubclass(cls, TextItems | EmbeddingItems)}
    own |= {DinEmbConfig, BstEmbConfig, HstuEmbConfig}
    assert own == {type(config) for config, _ in CASES.values()}
    assert set(MODULES) == own | {ItemLanguageConfig}, (
        "whose layers are a language model's: test_item_language.py"
    )


def test_logits_are_those_of_the_published_definition(case: tuple[CtrModel, Definition]) -> None:
    model, definition = case
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    embeddings = weights["item_embedding.weight"]
    expected = []
    for history, candidate in zip(HISTORIES, CANDIDATES, strict=True):
        user = embeddings[history]
        if not isinstance(model, HistoryModel):
            user = user.sum(axis=0) / max(len(history), 1)
        expected.append(float(np.squeeze(definition(weights, model.config, user, embeddings[candidate]))))
    logits = batch_logits(model, HISTORIES, CANDIDATES).detach().numpy()
    assert logits.std() > 0.01
    np.testing.assert_allclose(logits, expected, rtol=1e-9, atol=1e-9)


def test_a_batch_scores_like_its_rows_alone(model: CtrModel) -> None:
    rows = [
        batch_logits(model, [history], [item]) for history, item in zip(HISTORIES, CANDIDATES, strict=True)
    ]
    torch.testing.assert_close(batch_logits(model, HISTORIES, CANDIDATES), torch.cat(rows))


@pytest.mark.parametrize("history", HISTORIES, ids=len)
def test_a_slate_scores_like_a_batch_of_the_same_user(model: CtrModel, history: list[int]) -> None:
    logits = batch_logits(model, [history] * len(CANDIDATES), CANDIDATES)
    torch.testing.assert_close(slate(model, history, CANDIDATES), torch.sigmoid(logits))


@pytest.mark.parametrize("case", [case for case in CASES if case not in HISTORY_CASES], indirect=True)
def test_an_empty_history_is_the_zero_user(model: CtrModel) -> None:
    items = model.item_embedding(torch.tensor(CANDIDATES))
    logits = model.interact(torch.zeros(1, items.size(1), dtype=items.dtype), items)
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(slate(model, [], CANDIDATES), torch.sigmoid(logits))


def test_an_empty_slate_has_no_scores(model: CtrModel) -> None:
    assert slate(model, [1, 2], []).shape == (0,)


def test_a_gradient_reaches_every_parameter(model: CtrModel) -> None:
    generator = np.random.default_rng(3)
    histories = [generator.integers(0, N_ITEMS, size=4).tolist() for _ in range(64)]
    logits = batch_logits(model, histories, generator.integers(0, N_ITEMS, size=64).tolist())
    torch.autograd.backward(logits.square().sum())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_dropout_acts_in_training_only(model: CtrModel) -> None:
    torch.manual_seed(0)
    assert torch.equal(slate(model, [1, 2], CANDIDATES), slate(model, [1, 2], CANDIDATES))
    model.train()
    assert not torch.equal(slate(model, [1, 2], CANDIDATES), slate(model, [1, 2], CANDIDATES))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, about its exporter
@pytest.mark.filterwarnings("ignore:Using len")  # a graph reads one history: a constant
def test_a_traced_graph_scores_any_history_and_slate(model: CtrModel, tmp_path: Path) -> None:
    export(model.float(), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for history in HISTORIES:
        for size in range(len(CANDIDATES) + 1):
            feeds = {"history": history, "candidates": CANDIDATES[:size]}
            arrays = {name: np.array(items, np.int32) for name, items in feeds.items()}
            (scores,) = session.run(["scores"], arrays)
            expected = slate(model, history, CANDIDATES[:size]).detach().numpy()
            np.testing.assert_allclose(scores, expected, atol=1e-5)


class Scoring(nn.Module):
    """The exporter traces `forward`; serving runs `score`."""

    def __init__(self, model: CtrModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        return self.model.score(history, candidates)


def export(model: CtrModel, path: Path) -> None:
    torch.onnx.export(
        Scoring(model).eval(),
        (torch.tensor([1, 2, 3], dtype=torch.int32), torch.tensor([4, 5], dtype=torch.int32)),
        path,
        input_names=["history", "candidates"],
        output_names=["scores"],
        dynamic_axes={"history": {0: "T"}, "candidates": {0: "N"}, "scores": {0: "N"}},
        opset_version=17,
        dynamo=False,
    )


def test_a_pair_linear_starts_as_the_linear_of_the_concatenation() -> None:
    torch.manual_seed(5)
    pair = PairLinear(3, 4, 6)
    torch.manual_seed(5)
    whole = nn.Linear(7, 6)
    left, right = torch.randn(9, 3), torch.randn(9, 4)
    torch.testing.assert_close(pair(left, right), whole(torch.cat([left, right], dim=1)))


def test_deepfm_starts_without_first_order_weights() -> None:
    model = build(DeepFmConfig(**SMALL), N_ITEMS)
    assert model.item_embedding.weight.shape == (N_ITEMS, SMALL["dim"] + 1)
    assert torch.all(model.item_embedding.weight[:, -1] == 0)
