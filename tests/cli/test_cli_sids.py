"""`sids` through the real entry point, with a tiny language model of random weights from a directory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from entry_point import Done, rbserve, rbserve_process

from rbserve.data.dataset import Dataset
from rbserve.data.semantic_ids import open_semantic_ids

MADE = ("sids", "--dataset", "planted", "--levels", "3", "--codes", "16", "--epochs", "4", "--batch", "32")


@pytest.fixture(scope="module")
def encoder(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A BERT of one narrow layer whose vocabulary is the words of the planted titles."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    words = sorted({word for text in planted.items.texts for word in text.split()})
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words) + 5,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    BertModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def home(planted: Dataset, encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which the planted data set has identifiers."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(planted.path, home / "data" / "planted")
    done = _run(*MADE, "--encoder", encoder, "--sample", "0", home=home)
    assert "made semantic identifiers of 82 items" in done.stderr
    return home


def _run(*words: str, home: Path, check: int | None = 0) -> Done:
    """The command line with a cache below `home`."""
    return rbserve(*words, home=home, check=check, RBSERVE_CACHE=str(home / "cache"))


def test_every_item_has_a_path_and_the_report_and_neighbours_are_json(home: Path, encoder: str) -> None:
    document = json.loads(_run(*MADE, "--encoder", encoder, "--sample", "4", "--json", home=home).stdout)
    sids = open_semantic_ids(Path(document["path"]))
    assert len(np.unique(sids.codes, axis=0)) == 82
    assert document["manifest"]["report"]["levels"][-1]["distinct_prefixes"] == 1
    assert document["manifest"]["settings"]["epochs"] == 4
    assert len(document["sample"]) == 4
    for row in document["sample"]:
        assert [shared["codes"] for shared in row["shared"]] == [2, 1]
        assert row["path"] in sids.codes.tolist()


def test_what_is_there_is_shown_as_tables_and_needs_no_torch(home: Path, encoder: str) -> None:
    (home / "without").mkdir()
    (home / "without" / "torch.py").write_text("raise ModuleNotFoundError(name='torch')")
    words = (*MADE, "--encoder", encoder, "--sample", "2")
    shown = rbserve_process(
        *words, home=home, RBSERVE_CACHE=str(home / "cache"), PYTHONPATH=str(home / "without")
    )
    assert "of 16" in shown.stdout
    assert "1 codes: " in shown.stdout
    assert "topic" in shown.stdout
    assert "made" not in shown.stderr


def test_options_that_contradict_what_is_there_are_refused_unless_rebuilt(home: Path, encoder: str) -> None:
    words = ("sids", "--dataset", "planted", "--levels", "3", "--codes", "16", "--encoder", encoder)
    refused = _run(*words, "--balance", "all", home=home, check=2)
    assert "were made with balance none, not all" in refused.stderr
    assert "hint: --rebuild" in refused.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--levels", "0"), "'--levels'"),
        (("--pooling", "first"), "pooling"),
        (("--resume",), "nothing to resume"),
        (("--levels", "1", "--codes", "16"), "1 levels of 16 codes are 16 paths, too few for 82 items"),
    ],
)
def test_mistakes_are_one_line_and_a_hint(
    home: Path, encoder: str, words: tuple[str, ...], message: str
) -> None:
    done = _run("sids", "--dataset", "planted", "--encoder", encoder, *words, home=home, check=None)
    assert done.returncode != 0
    assert message in done.stderr
    assert not [path for path in (home / "data/planted/sids").iterdir() if "3x16" not in path.name]
