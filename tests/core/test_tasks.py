"""Tasks are a table: no other module of the product spells a task's name or a headline metric."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from voice import FOLDERS, product_files

from rbserve.core.tasks import ACCURACIES, CTR, GRADED, PAPER_TASKS, SEQREC, TASKS, Task
from rbserve.stats.metrics import METRICS, metric_title

ROOT = Path(__file__).resolve().parent.parent.parent
TABLE = ROOT / "rbserve" / "core" / "tasks.py"
ZOO = ROOT / "rbserve" / "models" / "zoo.py"


def spelled_tasks(tree: ast.Module) -> Iterator[int]:
    """The lines of string constants that are the name of a task."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in TASKS:
            yield node.lineno


def recipes(tree: ast.Module) -> set[int]:
    """The lines of the zoo's rows, whose recipe may be called "ctr"."""
    return {
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_row"
    }


def test_no_module_but_the_table_spells_the_name_of_a_task() -> None:
    spelled = {}
    for file in product_files(ROOT):
        tree = ast.parse(file.read_text())
        lines = {*spelled_tasks(tree)} - (recipes(tree) if file == ZOO else set())
        if lines and file != TABLE:
            spelled[str(file.relative_to(ROOT))] = sorted(lines)
    assert spelled == {}


def test_a_comparison_a_key_and_a_default_are_found() -> None:
    code = 'def f(task="ctr"):\n    return {"seqrec": 1}.get(\n    task) or task == "ctr"\n'
    assert sorted(spelled_tasks(ast.parse(code))) == [1, 2, 3]


def test_no_page_spells_the_name_of_a_task() -> None:
    pages = [
        *(
            file
            for folder in FOLDERS
            for kind in ("html", "js", "j2")
            for file in (ROOT / folder).rglob(f"*.{kind}")
        )
    ]
    assert len(pages) > 2
    for page in pages:
        assert not any(f'"{name}"' in page.read_text() for name in TASKS), page


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_headline_of_a_task_is_a_metric_with_an_interval_that_tables_show(task: Task) -> None:
    metric = METRICS[task.name][task.metric]
    assert (metric.better, metric.in_tables) == ("higher", True)
    assert metric.draws


def test_no_two_tasks_of_the_paper_share_a_path_a_column_or_a_headline_and_none_a_title() -> None:
    assert TASKS == {"ctr": CTR, "seqrec": SEQREC, "rerank": GRADED}
    for column in ("path", "size_name", "item_column", "metric", "ranked_among"):
        assert len({getattr(task, column) for task in PAPER_TASKS}) == len(PAPER_TASKS), column
    for column in ("title", "ranked_among", "row_name"):
        assert len({getattr(task, column) for task in TASKS.values()}) == len(TASKS), column
    assert tuple(task.metric for task in TASKS.values()) == ACCURACIES


def test_a_metric_that_all_tasks_have_is_titled_by_what_it_ranks() -> None:
    shared = METRICS[CTR.name].keys() & METRICS[SEQREC.name].keys() & METRICS[GRADED.name].keys()
    assert shared
    for metric in shared:
        titles = {metric_title(metric, name) for name in TASKS}
        assert len(titles) == len(TASKS)
