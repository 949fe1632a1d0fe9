"""A training that goes on from an artefact, on data whose items have other numbers and some of which are new."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from small import train_small
from small_backbone import make_backbone
from small_dataset import build

from rbserve.core.errors import Interrupted, UsageError
from rbserve.core.options import with_options
from rbserve.core.types import no_progress
from rbserve.data.artifact import WEIGHTS, Artifact, open_artifact
from rbserve.data.dataset import Dataset, ItemTable
from rbserve.data.semantic_ids import find_semantic_ids
from rbserve.models.configs import config_from_dict
from rbserve.models.zoo import find_model
from rbserve.pipeline.home import Home
from rbserve.runtimes.torch import load_model
from rbserve.train.datasets import synthetic
from rbserve.train.fit import _maker, train
from rbserve.train.fitting.loop import Settings
from rbserve.train.protocol.options import Protocol
from rbserve.train.protocol.sampling import Interactions
from rbserve.train.protocol.tally import Tally
from rbserve.train.tasks.warm_start import (
    WarmStart,
    continue_identifiers,
    continued_spec,
    require_continuable,
    similar_texts,
)

SIZES = {"users": 200, "items": 40, "topics": 4, "events_per_user": 20}
SETTINGS = Settings(batch=64, micro_batch=32, lr=5e-3, epochs=1, epoch_rows=128)
SMALL = {"layers": "2", "dim": "16", "heads": "2"}
CODES = {"levels": "3", "codes": "8"}
NEW = 3


def data(path: Path, order: np.ndarray[Any, np.dtype[np.int32]], more: int) -> Dataset:
    """The planted events with item i as number order[i], and `more` items behind them that only texts tell of."""
    tally = Tally()
    events, items = synthetic.read(synthetic.Planted(**SIZES), tally.dropped)
    place = np.argsort(order)
    ids = [*(items.ids[row] for row in place), *(f"new{row}" for row in range(more))]
    texts = [*(items.texts[row] for row in place), *(items.texts[row] for row in range(more))]
    moved = Interactions(events.users, order[events.items].astype(np.int32), events.labels, events.times)
    return build(path, "synthetic", moved, ItemTable(ids, texts), Protocol(), tally)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return data(tmp_path_factory.mktemp("before") / "shop", np.arange(40, dtype=np.int32), 0)


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return data(tmp_path_factory.mktemp("after") / "shop", np.arange(40, dtype=np.int32)[::-1].copy(), NEW)


@pytest.fixture(scope="module")
def bases(before: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """A small artefact of every kind on the data of before, made when a test first asks for it."""
    folder = tmp_path_factory.mktemp("bases")
    bert, llama = (
        str(make_backbone(name, folder / "backbones" / name)) for name in ("sentence-bert", "llama")
    )
    lora = {"backbone": llama, "lora_rank": "4"}
    options: dict[str, dict[str, str]] = {
        "dnn-emb": {"dim": "16", "hidden": "32", "encoder": bert},
        "dnn-emb tuned": {"dim": "16", "hidden": "32", "encoder": bert, "vectors": "tuned"},
        "sasrec-3l": SMALL,
        "sasrec-2l-emb": SMALL | {"encoder": bert},
        "sid-sasrec-3l": SMALL | CODES | {"encoder": bert},
        "sid-sasrec-3l-parallel": SMALL | CODES | {"encoder": bert},
        "text-smollm2-135m": lora,
        "p5-smollm2-135m": lora,
        "sid-smollm2-135m": lora | CODES | {"encoder": bert},
        "seq-p5-smollm2-135m": lora,
    }

    class Made(dict[str, Artifact]):
        def __missing__(self, name: str) -> Artifact:
            if name in ("dnn", "deepfm", "dnn-text"):
                self[name] = train_small(name, before, folder / name, epochs=2)
            else:
                spec = find_model(name.split()[0])
                spec = dataclasses.replace(spec, config=with_options(spec.config, options[name]))
                self[name] = train(spec, before, folder / name.replace(" ", "-"), SETTINGS)
            return self[name]

    return Made()


def started(base: Artifact, dataset: Dataset) -> torch.nn.Module:
    """A fresh model of the data's items with the artefact's weights, as a training gets it."""
    spec = continued_spec(find_model(base.name), base, [])
    torch.manual_seed(7)
    continue_identifiers(base, dataset, no_progress)
    model, task = _maker(spec, None, WarmStart(base, dataset))(spec, dataset, no_progress)
    weights = task.weights(model)  # adapters are merged
    del weights
    return model.eval()


@pytest.mark.parametrize(
    "name", ["dnn", "deepfm", "dnn-text", "dnn-emb", "dnn-emb tuned", "sasrec-3l", "sasrec-2l-emb", "sid-sasrec-3l",
             "sid-sasrec-3l-parallel", "text-smollm2-135m", "p5-smollm2-135m", "sid-smollm2-135m",
             "seq-p5-smollm2-135m"],
)  # fmt: skip
def test_known_items_begin_with_what_they_had_under_their_new_numbers(
    name: str, bases: dict[str, Artifact], before: Dataset, after: Dataset
) -> None:
    base = bases[name]
    old, new = load_model(base).state_dict(), started(base, after).state_dict()
    rows = [before.items.index[item] for item in after.items.ids[:40]]
    itemwise = [key for key, value in old.items() if len(value.shape) and len(value) == 40 and key in new]
    for key, value in old.items():
        if (key.startswith("item_embedding.") and name == "dnn-text") or key == "freshness":
            continue  # other words; chosen anew
        expected = value[rows] if key in itemwise and len(new[key]) == 40 + NEW else value
        torch.testing.assert_close(new[key][: len(expected)], expected, atol=1e-4, rtol=1e-4)
    if name.startswith("sid"):
        sids = find_semantic_ids(after, _config(base))
        assert sids is not None
        np.testing.assert_array_equal(sids.codes[:40], base.sids.codes[rows])
    elif name == "dnn-text":
        words = {word: new["item_embedding.words.weight"][row] for row, word in enumerate(after.words)}
        for row, word in enumerate(before.words):
            if word in words:
                assert torch.equal(words[word], old["item_embedding.words.weight"][row])
    elif name not in ("dnn-emb", "text-smollm2-135m", "dnn-emb tuned"):
        assert itemwise


def _config(base: Artifact) -> Any:
    return config_from_dict(base.manifest.config_kind, base.manifest.config)


def test_an_items_new_id_begins_with_the_mean_of_those_with_like_texts(
    bases: dict[str, Artifact], before: Dataset, after: Dataset
) -> None:
    base = bases["dnn"]
    old = load_model(base).state_dict()["item_embedding.weight"]
    new = started(base, after).state_dict()["item_embedding.weight"]
    like = similar_texts(before.items.texts, [after.items.texts[40]])[0]
    assert 0 in like  # the item with the very text
    torch.testing.assert_close(new[40], old[like].mean(dim=0))


def test_like_texts_share_rare_words() -> None:
    known = ["blue moon", "red moon", "green cheese", *["the sun"] * 60]
    assert similar_texts(known, ["moon of blue", "the sun", "nothing", ""]) == [[0, 1], [], [], []]


def test_what_it_was_continued_from_is_written_down_and_the_best_is_kept(
    bases: dict[str, Artifact], after: Dataset, tmp_path: Path
) -> None:
    base = bases["dnn"]
    spec = continued_spec(find_model("dnn"), base, [])
    ruinous = dataclasses.replace(SETTINGS, lr=10.0, epochs=2)
    artifact = train(spec, after, tmp_path / "dnn", ruinous, init=base)
    record = artifact.manifest.training
    assert record.continued is not None
    assert (record.continued.name, record.continued.model_digest) == ("dnn", base.model_digest)
    assert (record.continued.known_items, record.continued.new_items) == (40, NEW)
    assert record.best_epoch == 0, "no epoch of such steps is better than the start"
    start = started(base, after).state_dict()
    for key, value in load_model(artifact).state_dict().items():
        assert torch.equal(value, start[key])
    gentle = train(spec, after, tmp_path / "gentle", SETTINGS, init=base).manifest.training
    assert gentle.best_metric is not None
    assert record.best_metric is not None
    assert gentle.best_metric >= record.best_metric - 1e-9


def test_a_continued_training_that_was_stopped_resumes_to_the_same_bytes(
    bases: dict[str, Artifact], after: Dataset, tmp_path: Path
) -> None:
    base = bases["dnn-text"]
    spec = continued_spec(find_model("dnn-text"), base, [])
    settings = dataclasses.replace(SETTINGS, epochs=2)
    whole = train(spec, after, tmp_path / "whole", settings, init=base)
    steps = 0

    def stop(done: int, total: int, line: str) -> None:
        nonlocal steps
        if "epoch" in line:
            steps += 1
            if steps == 3:
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        train(spec, after, tmp_path / "cut", settings, progress=stop, init=base)
    again = train(spec, after, tmp_path / "cut", settings, resume=True, init=base)
    assert (again.path / WEIGHTS).read_bytes() == (whole.path / WEIGHTS).read_bytes()
    with pytest.raises(Interrupted):
        steps = 0
        train(spec, after, tmp_path / "cut", settings, progress=stop, init=base)
    with pytest.raises(UsageError, match="init was"):
        train(spec, after, tmp_path / "cut", settings, resume=True)


def test_identifiers_of_another_rqvae_are_not_mixed(
    bases: dict[str, Artifact], before: Dataset, after: Dataset, tmp_path: Path
) -> None:
    base = bases["sid-sasrec-3l"]
    other = data(tmp_path / "other", np.arange(40, dtype=np.int32), 1)
    spec = dataclasses.replace(find_model("sid-sasrec-3l"), config=_config(base))
    train(spec, other, tmp_path / "own", SETTINGS)
    with pytest.raises(UsageError, match="are not those of"):
        continue_identifiers(base, other, no_progress)


@pytest.mark.parametrize(("model", "options", "said"), [
    ("gdcn", {}, "gdcn cannot continue"), ("dnn", {"dim": "32"}, "dim is 16 in"),
])  # fmt: skip
def test_another_row_or_option_is_refused_by_name(
    model: str, options: dict[str, str], said: str, bases: dict[str, Artifact]
) -> None:
    spec = find_model(model)
    spec = dataclasses.replace(spec, config=with_options(spec.config, options))
    with pytest.raises(UsageError, match=said) as error:
        continued_spec(spec, bases["dnn"], [*options])
    assert "--model dnn" in str(error.value.hint)
    with pytest.raises(UsageError, match="layers is 2 in"):
        continued_spec(find_model("sasrec-6l"), bases["sasrec-3l"], [])


def test_what_is_not_learnt_cannot_be_continued(bases: dict[str, Artifact], tmp_path: Path) -> None:
    base = bases["dnn"]
    record = msgspec.structs.replace(base.manifest.training, random=True)
    drawn = Artifact(base.path, msgspec.structs.replace(base.manifest, training=record))
    with pytest.raises(UsageError, match="its weights are random"):
        require_continuable(drawn)
    asked = Artifact(base.path, msgspec.structs.replace(base.manifest, config_kind="zeroshot", config={}))
    with pytest.raises(UsageError, match="nothing of it is learnt"):
        require_continuable(asked)
    with pytest.raises(UsageError, match="--init and --weights random"):
        Home().train("dnn", "shop", random=True, init=str(base.path))
    assert open_artifact(base.path).manifest == base.manifest
