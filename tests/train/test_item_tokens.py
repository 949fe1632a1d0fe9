"""Item texts as tokens at run time, by the tokenizers library alone, beside what transformers makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rbserve.core.errors import ArtifactError
from rbserve.core.files import home
from rbserve.data.artifact import TOKENIZER
from rbserve.data.dataset import Dataset, open_dataset
from rbserve.models.prompts import ItemTokenizer, item_limit
from rbserve.train.datasets.sources import prepare
from rbserve.train.encoders.backbone import load_tokenizer, locate
from rbserve.train.tasks.language import _item_tokens, save_tokenizer

BACKBONES = ("minilm-l6", "smollm2-135m")
LIMIT = item_limit(512)


def different_texts(backbone: str, texts: list[str], folder: Path) -> list[str]:
    """The texts of which a saved tokeniser makes other tokens than packaging did."""
    source = locate(backbone)
    stored = _item_tokens(load_tokenizer(source), texts, LIMIT, lambda *_: None)
    save_tokenizer(source, folder)
    tokenizer = ItemTokenizer(folder / TOKENIZER, LIMIT)
    return [text for row, text in enumerate(texts) if not np.array_equal(tokenizer.tokens(text), stored[row])]


@pytest.fixture(scope="module")
def ml(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepare("ml-100k", tmp_path_factory.mktemp("data") / "ml-100k", catalogue="all")


@pytest.mark.network
@pytest.mark.parametrize("backbone", ["minilm-l6", pytest.param("smollm2-135m", marks=pytest.mark.slow)])
def test_every_title_has_the_tokens_it_was_packaged_with(backbone: str, ml: Dataset, tmp_path: Path) -> None:
    assert len(ml.items) == 1_682
    long = "a " * 400  # cut by neither library's own limit, but by ours
    assert different_texts(backbone, [*ml.items.texts, "", long, "[SEP] <s> ▁ ﬁ é"], tmp_path) == []


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_text_of_every_prepared_data_set_has_the_tokens_it_is_packaged_with(
    backbone: str, tmp_path: Path
) -> None:
    prepared = sorted(path.parent for path in (home() / "data").glob("*/manifest.json"))
    if not prepared:
        pytest.skip("no data set is prepared in RBSERVE_HOME")
    for path in prepared:
        texts = open_dataset(path).items.texts
        assert different_texts(backbone, texts, tmp_path) == [], path.name


def test_a_damaged_tokeniser_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"tokenizer\.json is no tokeniser"):
        ItemTokenizer(tmp_path / "tokenizer.json", LIMIT)
