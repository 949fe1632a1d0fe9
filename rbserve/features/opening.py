"""The tables of fields that an artefact has, opened: `FeatureMaker` reads them."""

from __future__ import annotations

from rbserve.data.artifact import Artifact
from rbserve.data.columns import open_column
from rbserve.data.dataset import read_field_values, values_file
from rbserve.features.coding import FieldCoder
from rbserve.features.counted import FOLDER as COUNTED
from rbserve.features.counted import MANIFEST, CountedTables, read_counted_manifest
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
    return FeatureMaker(layout, items, open_counted(artifact) if layout.counted else None)


def open_counted(artifact: Artifact) -> CountedTables:
    """The tables by which the requests of an artefact's model are counted, its files verified."""
    manifest = read_counted_manifest(artifact.file(f"{COUNTED}/{MANIFEST}"))
    files = {name: open_column(artifact.file(f"{COUNTED}/{name}.npy")) for name in manifest.tables}
    chosen = [spec.name for spec in artifact.layout.counted]
    return CountedTables(files, manifest.end, chosen)


def open_coders(artifact: Artifact) -> dict[str, FieldCoder]:
    """By name, what codes the values of each field that an artefact's model reads and that is not counted."""
    coders = {}
    for spec in artifact.layout.fields:
        if spec.scope != "counted":
            file = f"{FOLDER}/{values_file(spec)}"
            values = read_field_values(artifact.file(file)) if spec.has_values else ()
            coders[spec.name] = FieldCoder(spec, values)
    return coders
