"""The students that were distilled, as `rbserve models` lists them."""

from __future__ import annotations

from collections.abc import Mapping

from rbserve.core.errors import ArtifactError
from rbserve.core.types import ModelSpec
from rbserve.data.artifact import open_artifact
from rbserve.home.paths import places
from rbserve.home.target import is_student
from rbserve.progress import say


def student_rows(rows: Mapping[str, ModelSpec]) -> list[dict[str, object]]:
    """The entries of `rbserve models` for all students of these rows that are below the home directory."""
    entries: list[dict[str, object]] = []
    for place in places():
        if not is_student(place.model):
            continue
        try:
            manifest = open_artifact(place.path).manifest
        except ArtifactError as error:  # an unreadable artefact must not hide the others
            say(f"left out: {error.message}")
            continue
        taught = manifest.training.distilled
        if taught is None or taught.student not in rows:
            continue
        spec = rows[taught.student]
        entries.append({
            "name": manifest.name,
            "group": spec.group,
            "task": spec.task,
            "item_form": spec.item_form,
            "paper_name": f"{spec.paper_name or spec.name}, distilled",
            "recipe": spec.recipe,
            "backbone": spec.backbone,
            "runnable": True,
            "needs": (f"nothing: made on {manifest.dataset.name}",),
        })  # fmt: skip
    return entries
