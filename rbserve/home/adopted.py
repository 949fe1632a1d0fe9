"""The models that were adopted below the home directory, as `rbserve models` lists them."""

from __future__ import annotations

from rbserve.data.artifact import Artifact
from rbserve.home.paths import readable_artifacts


def adopted_rows() -> list[dict[str, object]]:
    """The entries of `rbserve models` for all adopted models that can be read, by data set and name.

    They have the keys of the zoo's rows, and `adopted` (the format that the model came as), `dataset` and `variants`.
    """
    return [_row(artifact) for artifact in readable_artifacts() if artifact.is_adopted]


def _row(artifact: Artifact) -> dict[str, object]:
    manifest = artifact.manifest
    assert manifest.adopted is not None
    return {
        "name": artifact.name,
        "group": manifest.group,
        "task": manifest.task,
        "item_form": manifest.item_form,
        "paper_name": None,
        "recipe": "",
        "backbone": None,
        "runnable": True,
        "needs": (f"nothing: adopted on {manifest.dataset.name}",),
        "adopted": manifest.adopted.format,
        "dataset": manifest.dataset.name,
        "variants": artifact.variants,
    }
