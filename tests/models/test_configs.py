"""Configs refuse what cannot be, and say what could."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbserve.core.errors import UsageError
from rbserve.core.options import with_options
from rbserve.models.configs import (
    CONFIGS,
    AutoIntConfig,
    CtrConfig,
    DcnConfig,
    DcnV2Config,
    DnnConfig,
    EmbeddingItems,
    FinalMlpConfig,
    GdcnConfig,
    HistoryConfig,
    MaskNetConfig,
    config_from_dict,
    config_to_dict,
    kind_of,
)


def test_defaults_are_those_of_the_paper() -> None:
    for kind, cls in CONFIGS.items():
        config = cls()
        if isinstance(config, CtrConfig) and not isinstance(config, HistoryConfig):
            assert config.dim == (256 if isinstance(config, EmbeddingItems) else 64), kind
            assert config.hidden == (1000, 1000, 1000), kind
            assert config.dropout == (0.0 if kind in ("finalmlp", "masknet") else 0.1), kind
    assert DcnConfig().cross_layers == DcnV2Config().cross_layers == GdcnConfig().cross_layers == 3


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_survives_json(kind: str) -> None:
    options = {
        "decay": "0.25",
        "dim": 8,
        "dropout": "0.25",
        "leaves": "7",
        "max_tokens": 99,
        "lora_dropout": "0.25",
        "top_logprobs": "0",
    }
    config = CONFIGS[kind]()
    config = with_options(config, {name: value for name, value in options.items() if hasattr(config, name)})
    assert config != CONFIGS[kind]()
    assert kind_of(config) == kind
    assert config_from_dict(kind, json.loads(json.dumps(config_to_dict(config)))) == config
    assert config_from_dict(CONFIGS[kind], config_to_dict(config)) == config


@given(
    dim=st.integers(1, 4096),
    hidden=st.lists(st.integers(1, 4096), min_size=1, max_size=5),
    dropout=st.floats(0, 1, exclude_max=True),
    structure=st.sampled_from(["parallel", "stacked"]),
)
def test_options_written_as_text_mean_what_they_say(
    dim: int, hidden: list[int], dropout: float, structure: Literal["parallel", "stacked"]
) -> None:
    text = {"dim": dim, "hidden": ",".join(map(str, hidden)), "dropout": dropout, "structure": structure}
    config = with_options(GdcnConfig(), {key: str(value) for key, value in text.items()})
    assert config == GdcnConfig(dim=dim, hidden=tuple(hidden), dropout=dropout, structure=structure)


def test_options_left_alone_keep_their_value() -> None:
    config = DcnV2Config(dim=16, mix=False)
    assert with_options(config, {}) == config
    assert with_options(config, {"rank": "8"}) == DcnV2Config(dim=16, mix=False, rank=8)
    assert config_from_dict("dcnv2", {"rank": 8}) == DcnV2Config(rank=8)


@pytest.mark.parametrize(("text", "value"), [("true", True), ("False", False), ("0", False), ("1", True)])
def test_a_switch_reads_true_and_false(text: str, value: bool) -> None:
    assert with_options(DcnV2Config(), {"mix": text}).mix is value


def test_a_config_is_frozen_and_normalises_what_it_is_given() -> None:
    config = DnnConfig(hidden=[8, 4], dropout=0)  # type: ignore[arg-type]
    assert config == DnnConfig(hidden=(8, 4), dropout=0.0)
    assert isinstance(config.hidden, tuple)
    assert isinstance(config.dropout, float)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.dim = 3  # type: ignore[misc]


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"^unknown option: droput$") as wrong:
        with_options(DnnConfig(), {"droput": "0.1"})
    assert wrong.value.hint == "did you mean dropout?"
    with pytest.raises(UsageError, match=r"^unknown option: cross_layer$") as wrong:
        config_from_dict("gdcn", {"cross_layer": 2})
    assert wrong.value.hint == "did you mean cross_layers?"


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"^unknown kind of model: dcnv3$") as wrong:
        config_from_dict("dcnv3", {})
    assert wrong.value.hint == "did you mean dcnv2?"


@pytest.mark.parametrize(
    ("cls", "key", "value", "hint"),
    [
        (DnnConfig, "dim", "wide", "an integer of at least 1"),
        (DnnConfig, "dim", 0, "an integer of at least 1"),
        (DnnConfig, "dim", "64.5", "an integer of at least 1"),
        (DnnConfig, "dim", True, "an integer of at least 1"),
        (DnnConfig, "dim", None, "an integer of at least 1"),
        (DnnConfig, "dropout", "1", "a number from 0 up to, but not including, 1"),
        (DnnConfig, "dropout", -0.1, "a number from 0 up to, but not including, 1"),
        (DnnConfig, "dropout", "nan", "a number from 0 up to, but not including, 1"),
        (DnnConfig, "hidden", "512,,256", "one or more integers of at least 1, such as 512,256"),
        (DnnConfig, "hidden", "512,0", "one or more integers of at least 1, such as 512,256"),
        (DnnConfig, "hidden", "", "one or more integers of at least 1, such as 512,256"),
        (DnnConfig, "hidden", (), "one or more integers of at least 1, such as 512,256"),
        (DcnV2Config, "mix", "perhaps", "true or false"),
        (DcnV2Config, "structure", "serial", "one of: parallel, stacked"),
        (MaskNetConfig, "structure", "stacked", "one of: parallel, serial"),
        (MaskNetConfig, "reduction_ratio", "0", "a number above 0"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_expected(cls: Any, key: str, value: Any, hint: str) -> None:
    with pytest.raises(UsageError) as wrong:
        with_options(cls(), {key: value})
    assert wrong.value.message == f"invalid option: {key}={value!r}"
    assert wrong.value.hint == f"{key} takes {hint}"


def test_heads_divide_what_they_split() -> None:
    with pytest.raises(UsageError, match="heads=3 does not divide the attention_dim, 64"):
        AutoIntConfig(heads=3)
    with pytest.raises(UsageError, match="heads=3 does not divide the last width of hidden, 1000"):
        FinalMlpConfig(heads=3)
    with pytest.raises(UsageError, match="heads=8 does not divide the last width of second_hidden, 100"):
        FinalMlpConfig(heads=8, second_hidden=(100,))


@pytest.mark.parametrize("module", ["rbserve.models.configs", "rbserve.models.zoo"])
def test_reading_configs_and_the_zoo_does_not_load_torch(module: str) -> None:
    code = f"import sys, {module}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
