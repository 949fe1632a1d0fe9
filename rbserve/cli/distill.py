"""The verb `distill`: a small, fast model from the scores of a slow one, or from some of its layers."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from rbserve.cli.console import print_json
from rbserve.cli.options import (
    Changes,
    DatasetName,
    Json,
    Out,
    Resume,
    Training,
    config_changes,
    dataset_name,
)
from rbserve.cli.records import FromRecord
from rbserve.core.settings import Teaching


def distill(
    *,
    teacher: Annotated[
        str,
        typer.Option(
            help="Model that scores candidates, or with --layers any fine-tuned language model: a zoo row or an "
            "artefact's directory; made if it is missing."
        ),
    ],
    student: Annotated[
        str | None,
        typer.Option(
            help="Zoo row of groups A, B or C, such as gdcn-emb, or bst-emb. Leave it out with --layers."
        ),
    ] = None,
    dataset: DatasetName = None,
    teacher_variant: Annotated[
        str | None,
        typer.Option(
            help="Variant of the teacher that scores (default onnx-fp32 where it is exported, else torch-fp32)."
        ),
    ] = None,
    teaching: Annotated[dict[str, Any], FromRecord(Teaching)],
    change: Changes = None,
    out: Out = None,
    settings: Training,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Train a small, fast model on the scores of a slow one.

    The artefact is named STUDENT-from-TEACHER. With --layers, the student is the teacher, a language model, with fewer
    layers, which learns from its hidden states as well.

    Examples: rbserve distill --teacher text-minilm-l6 --student gdcn-emb --dataset microlens --teacher-users 2500

    rbserve distill --teacher text-minilm-l6 --layers 3 --dataset microlens
    """
    from rbserve.pipeline.home import Home

    made = Home().distill(
        teacher, student, dataset_name(dataset), settings=settings, config=config_changes(change),
        teaching=teaching, variant=teacher_variant, out=out, resume=resume,
    )  # fmt: skip
    if as_json:
        print_json(made.manifest)
