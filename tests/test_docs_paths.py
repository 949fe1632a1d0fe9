"""Pages for readers name files, definitions and sections that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "ARCHITECTURE.md",
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
NAMED_FILE = r"(?:[\w.-]+/)+[\w.-]+\.(?:py|js|json|csv|toml)"
NAMED_FOLDER = r"(?:rbserve|tests|docs|train|exporters|profilers)/[\w/]*"
FILE = re.compile(rf"`({NAMED_FILE}|{NAMED_FOLDER})(?:: (\w+))?`")
"""A path in backticks, and the definition that is named behind it: `core/files.py: home`."""
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")


def missing_files(text: str) -> list[str]:
    """The named files and definitions that do not exist; paths are relative to the repository or to rbserve/."""
    missing = []
    for path, name in FILE.findall(text):
        file = next((folder / path for folder in (ROOT, ROOT / "rbserve") if (folder / path).exists()), None)
        if file is None or (name and not re.search(rf"\b{name}\b", file.read_text())):
            missing.append(f"{path}: {name}" if name else path)
    return missing


def sections(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """Links of a page to files and sections that do not exist."""
    broken = []
    for target, section in LINK.findall(page.read_text()):
        file = page.parent / target if target else page
        if not file.exists() or (section and section not in sections(file.read_text())):
            broken.append(f"{target}#{section}")
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_definition_that_a_page_names_exists(page: Path) -> None:
    assert missing_files(page.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_a_wrong_path_a_wrong_definition_and_a_dead_link_are_found(tmp_path: Path) -> None:
    assert missing_files("`core/files.py: home`, `train/`, `rbserve/nothing.py`, `core/files.py: no_such`") == [
        "rbserve/nothing.py", "core/files.py: no_such",
    ]  # fmt: skip
    page = tmp_path / "page.md"
    page.write_text(
        "# A heading, with signs!\n[here](#a-heading-with-signs) [gone](gone.md) [there](#nowhere)\n"
    )
    assert broken_links(page) == ["gone.md#", "#nowhere"]
