"""README's commands for one's own data, run as they stand, on files that have the columns which they name."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from pathlib import Path

import pytest
from entry_point import rbserve

README = Path(__file__).parents[1] / "README.md"
USERS, ITEMS, EACH = 40, 30, 6


def _commands() -> list[list[str]]:
    """README's shell commands, each as words."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def _own_data() -> list[list[str]]:
    """The command that prepares one's own tables, and those after it that name the same data set."""
    commands = _commands()
    start = next(place for place, words in enumerate(commands) if words[:3] == ["rbserve", "prepare", "csv"])
    name = commands[start][commands[start].index("--name") + 1]
    return [commands[start], *(words for words in commands[start + 1 :] if name in words)]


def _write_files(prepare: list[str], folder: Path) -> None:
    """Clicks and items with the columns that a `prepare` command names."""
    parser = argparse.ArgumentParser()
    for option, default in {"interactions": None, "items": None, "user": "user_id", "item": "item_id", "time": None,
                            "text": "title", "items-id": None, "label": None, "rating": None}.items():  # fmt: skip
        parser.add_argument(f"--{option}", default=default)
    named, _ = parser.parse_known_args(prepare)
    assert (named.label, named.rating) == (None, None)
    clicks = [
        (f"u{user}", f"A{(7 * user + 5 * step) % ITEMS:02}", str(1_700_000_000 + 100 * user + step))
        for user in range(USERS)
        for step in range(EACH)
    ]
    columns = [name for name in (named.user, named.item, named.time) if name]
    rows = [",".join(click[: len(columns)]) for click in clicks]
    (folder / named.interactions).write_text("\n".join([",".join(columns), *rows, ""]))
    titles = [f"A{item:02},Title {item}" for item in range(ITEMS)]
    (folder / named.items).write_text(
        "\n".join([f"{named.items_id or named.item},{named.text}", *titles, ""])
    )


def test_the_commands_prepare_and_show_likes_alone(tmp_path: Path) -> None:
    prepare, *others = _own_data()
    _write_files(prepare, tmp_path)
    rbserve(*prepare[1:], home=tmp_path)
    shown = [words for words in others if words[1] != "profile"]
    assert shown
    for words in shown:
        rbserve(*words[1:], home=tmp_path)
    report = json.loads(rbserve("datasets", "show", "shop", "--json", home=tmp_path).stdout)
    assert report["ok"]
    manifest = json.loads((tmp_path / "data" / "shop" / "manifest.json").read_text())
    assert (manifest["options"]["negatives"], manifest["options"]["held_out"]) == (2, 2)
    assert manifest["dropped"] == {}
    assert sum(split["rows"] for split in manifest["counts"]["ctr"].values()) == USERS * 4


@pytest.mark.slow
def test_every_command_runs_to_its_end(tmp_path: Path) -> None:
    commands = _own_data()
    assert any(words[1] == "profile" for words in commands)
    _write_files(commands[0], tmp_path)
    for words in commands:
        rbserve(*words[1:], home=tmp_path)
