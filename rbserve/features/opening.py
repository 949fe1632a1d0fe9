"""The tables of fields that an artefact or a data set has, opened: `FeatureMaker` reads them."""

from __future__ import annotations

from rbserve.data.artifact import Artifact
from rbserve.data.columns import open_column
from rbserve.features.maker import FeatureMaker

FOLDER = "fields"
"""Where artefacts and data sets keep the values of fields."""


def open_maker(artifact: Artifact) -> FeatureMaker:
    """What makes the tensors of an artefact's model, its files verified."""
    layout = artifact.layout
    items = {
        spec.name: open_column(artifact.file(f"{FOLDER}/{spec.entry}.npy")).reshape(-1, spec.width)
        for spec in layout.fields
        if spec.scope == "item"
    }
    return FeatureMaker(layout, items)
