"""Commands that work on several models and data sets: what --model and --dataset select, and one run for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rbserve.cli.console import print_json
from rbserve.cli.options import dataset_names, model_names, only, words
from rbserve.core.errors import Interrupted, RbserveError, UsageError
from rbserve.progress import say

if TYPE_CHECKING:
    from rbserve.home.target import ModelName


class Selection(NamedTuple):
    """Models, each with a data set; `as_list`: a command prints a list of documents, even for a single model."""

    pairs: list[tuple[str | ModelName, str]]
    as_list: bool

    @property
    def is_many(self) -> bool:
        """Whether there are several models, or data sets of a model."""
        return len(self.pairs) > 1


def select(
    model: list[str] | None, many: list[str] | None, dataset: list[str] | None, recipe: bool = False
) -> Selection:
    """The models of --model and --models on each of the data sets; with `recipe`, --model names a recipe."""
    names = [*(model or []), *(many or [])]
    if not names:
        raise UsageError("give --model", "--model gdcn")
    models: Sequence[str | ModelName] = [only(words(names), "--model")] if recipe else model_names(names)
    pairs = [(name, data) for data in dataset_names(dataset) for name in models]
    return Selection(pairs, many is not None or len(pairs) > 1)


def run_each(selection: Selection, work: Callable[[str | ModelName, str], object], as_json: bool) -> None:
    """Calls work(model, dataset) for each, and prints the documents that it returns if `as_json`.

    One of several models that fails is reported and does not stop the others; the command fails at its end.
    """
    if not selection.as_list:
        document = work(*selection.pairs[0])
        if as_json:
            print_json(document)
        return
    documents: list[object] = []
    failed: list[str] = []
    several_datasets = len({data for _, data in selection.pairs}) > 1
    for name, data in selection.pairs:
        title = f"{name} on {data}" if several_datasets else str(name)
        try:
            documents.append(work(name, data))
        except Interrupted:
            raise
        except RbserveError as error:
            failed.append(title)
            say(f"error: {title}: {error.message}")
    if as_json:
        print_json(documents)
    if failed:
        raise RbserveError(f"{len(failed)} of {len(selection.pairs)} models failed: {', '.join(failed)}")
