"""The verb that trains a small row on a slow one's scores: `distill`."""

from __future__ import annotations

from typing import Annotated

import typer

from rbserve.cli.console import print_json
from rbserve.cli.data import Json
from rbserve.cli.options import (
    DATASET,
    Batch,
    EpochRows,
    Epochs,
    LearningRate,
    MicroBatch,
    Out,
    Patience,
    Precision,
    Resume,
    Schedule,
    Seed,
    Set,
    dataset_name,
    given,
    options,
)


def distill(
    teacher: Annotated[
        str,
        typer.Option(help="A row that scores candidates, or an artefact's directory; made if it is missing."),
    ],
    student: Annotated[str, typer.Option(help="A row of groups A, B or C, such as gdcn-emb.")],
    dataset: Annotated[
        list[str] | None,
        typer.Option(*DATASET, help="The data set that the teacher was made from; ml-100k."),
    ] = None,
    teacher_variant: Annotated[
        str | None, typer.Option(help="What scores: onnx-fp32 where it was exported, else torch-fp32.")
    ] = None,
    pairs: Annotated[
        int | None, typer.Option(help="Items without a label that are scored for each training user: 20.")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="The teacher's share in the target of a labelled row: 0.5.")
    ] = None,
    teacher_users: Annotated[
        int | None, typer.Option(help="Score so many training users, drawn at random, instead of all (0).")
    ] = None,
    option: Set = None,
    out: Out = None,
    epochs: Epochs = None,
    epoch_rows: EpochRows = None,
    batch: Batch = None,
    micro_batch: MicroBatch = None,
    lr: LearningRate = None,
    patience: Patience = None,
    seed: Seed = None,
    precision: Precision = None,
    schedule: Schedule = None,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Train a small, fast row on a teacher's scores; it is then a row of its own, STUDENT-from-TEACHER.

    Example: rbserve distill --teacher text-minilm-l6 --student gdcn-emb --dataset microlens --teacher-users 2500
    """
    from rbserve.pipeline.home import Home

    settings = given(
        epochs=epochs, batch=batch, lr=lr, patience=patience, seed=seed, epoch_rows=epoch_rows,
        precision=precision, schedule=schedule, micro_batch=micro_batch,
    )  # fmt: skip
    teaching = given(pairs=pairs, alpha=alpha, teacher_users=teacher_users)
    made = Home().distill(
        teacher, student, dataset_name(dataset), settings=settings, config=options(option), teaching=teaching,
        variant=teacher_variant, out=out, resume=resume,
    )  # fmt: skip
    if as_json:
        print_json(made.manifest)
