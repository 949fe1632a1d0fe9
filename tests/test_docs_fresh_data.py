"""The walk of docs/fresh-data.md runs as it stands, on a shop of forty users."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from entry_point import rbserve

from rbserve.data.artifact import open_artifact

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "fresh-data.md").read_text()


def walk() -> list[list[str]]:
    """The commands of the first section that end by themselves."""
    section = TEXT.partition("## The daily walk")[2].partition("\n## ")[0]
    commands = [shlex.split(line) for line in re.findall(r"^rbserve .*", section, re.MULTILINE)]
    return [words[1:] for words in commands if words[1] != "serve"]


def write_shop(folder: Path, suffix: str, items: int) -> None:
    titles = ["blue", "red", "green", "old", "new"]
    rows = [f"A{item:02d},{titles[item % 5]} {titles[item // 5 % 5]} thing" for item in range(items)]
    (folder / f"items{suffix}.csv").write_text("\n".join(["item_id,title", *rows]))
    clicks = [
        f"u{user},A{(7 * user + 5 * place) % items:02d},{1_700_000_000 + 100 * user + place}"
        for user in range(40)
        for place in range(6)
    ]
    (folder / f"clicks{suffix}.csv").write_text("\n".join(["user_id,item_id,ts", *clicks]))


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    write_shop(tmp_path, "", 30)
    write_shop(tmp_path, "-2", 33)
    (tmp_path / "new.csv").write_text("item_id,title\nA30,blue old thing\nA31,red thing\n")
    return tmp_path


def test_the_walk_runs_as_it_stands(shop: Path) -> None:
    commands = walk()
    assert [words[0] for words in commands].count("train") == 2
    for words in commands:
        more = ["--epochs", "1"] if words[0] == "train" and "--epochs" not in words else []
        rbserve(*words, *more, home=shop)
    before, after = (open_artifact(shop / "artifacts" / name / "gdcn-text") for name in ("shop", "shop-2"))
    assert {"A30", "A31"} <= before.items.index.keys()
    assert [before.items.ids[row] for row in sorted(before.items.retired)] == ["A03", "A07"]
    continued = after.manifest.training.continued
    assert continued is not None
    assert continued.model_digest == before.model_digest
    assert continued.new_items == len(set(after.items.ids) - set(before.items.ids))
    assert {"onnx-fp32", "onnx-int8"} <= after.manifest.variants.keys()
    shutil.rmtree(shop / "artifacts" / "shop")
    refused = rbserve("train", "--model", "gdcn-text", "--dataset", "shop-2", "--init", "artifacts/shop/gdcn-text",
                      home=shop, check=1)  # fmt: skip
    assert "no artefact at" in refused.stderr
