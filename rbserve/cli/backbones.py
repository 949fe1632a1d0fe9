"""The verb `backbones`: the language models that a recipe takes by name."""

from __future__ import annotations

from rbserve.cli.console import print_json
from rbserve.cli.options import Json


def backbones(as_json: Json = False) -> None:
    """List the language models that a recipe takes by name.

    Each with its size, licence, and where the weights come from.

    Any other language model is given as rbserve train --model text --backbone HUB_ID|DIRECTORY

    Example: rbserve backbones
    """
    from rbserve.models.shapes import SHAPES
    from rbserve.models.zoo import BACKBONES

    rows: list[dict[str, object]] = [
        {
            "name": backbone.name,
            "hub_id": backbone.hub_id,
            "architecture": backbone.architecture,
            "billion_parameters": backbone.parameters,
            "licence": backbone.licence,
            "paper": backbone.paper,
            "needs": backbone.needs,
            "shape": SHAPES.get(backbone.name),
        }
        for backbone in BACKBONES.values()
    ]
    if as_json:
        print_json(rows)
        return
    from rbserve.cli.console import backbones_table, show

    show(backbones_table(rows))
