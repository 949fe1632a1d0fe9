"""`--precision auto`: the variant to serve, by an earlier choice, by a run file, or by a short profile made now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rbserve.core.errors import DataError
from rbserve.data.artifact import Artifact
from rbserve.home.paths import choices_path, runs_path
from rbserve.home.target import Target
from rbserve.pipeline.exporting import ensure_exported
from rbserve.pipeline.serving import data_of, to_serve
from rbserve.progress import progress_bar, say
from rbserve.runs.plan import Slate

if TYPE_CHECKING:
    from rbserve.profilers.choose.choice import Choice, Question


def choose_variant(
    target: Target,
    slate: Slate | None = None,
    threads: int = 1,
    tolerance: float | None = None,
    make: bool = False,
) -> tuple[Artifact, Choice]:
    """The artefact, and the fastest of its variants that holds the accuracy of fp32 (`profilers.choose.choice`).

    An earlier choice for the same question, in choices/, stands. Else a run file of the artefact decides, or a short
    profile made now. If no variant is exported yet, the usual ones are exported first.
    """
    import msgspec

    from rbserve.core.files import optional_write, write_bytes
    from rbserve.profilers.choose import choice as auto

    allowed = auto.TOLERANCE if tolerance is None else tolerance
    auto.check_tolerance(allowed)
    if make and target.is_endpoint:
        auto.refuse_endpoint(target.name)
    artifact = to_serve(target, make)
    if not artifact.is_endpoint and not artifact.manifest.variants:
        data_of(artifact, f"no variant of {artifact.name} is exported yet; exporting one", make)
        artifact = ensure_exported(artifact)
    question = auto.question_of(artifact, runs_path(), slate, threads, allowed)
    file = choices_path() / question.file_name
    answer = _answered(file, question)
    if answer is not None and not auto.unusable(artifact, [answer.chosen]):
        return artifact, answer
    absent = auto.absent(artifact)
    unusable = auto.unusable(
        artifact, [variant for variant in auto.candidates(artifact) if variant not in absent]
    )
    answer = _choose(artifact, question, absent | unusable)
    if not unusable:  # a file may be mended, and memory freed, without a change of the question
        with optional_write("the choice of a variant"):
            write_bytes(file, msgspec.json.format(msgspec.json.encode(answer)))
    return artifact, answer


def _answered(file: Path, question: Question) -> Choice | None:
    """The choice that a file holds for this question, or None; an unreadable file is reported and ignored."""
    from rbserve.core.manifest import read_manifest
    from rbserve.profilers.choose.choice import SCHEMA, Choice

    if not file.is_file():
        return None
    try:
        answer = read_manifest(file, Choice, SCHEMA, "a choice", "it is made anew")
    except DataError as error:
        say(f"{error.message}; {error.hint}")
        return None
    return answer if answer.question == question else None


def _choose(artifact: Artifact, question: Question, refused: Mapping[str, str]) -> Choice:
    """The choice by a run file, else by a short profile made now."""
    from rbserve.profilers.choose import choice as auto
    from rbserve.profilers.measure.harness import profile as measure
    from rbserve.profilers.measure.test_rows import open_test_rows

    variants = [variant for variant in auto.candidates(artifact) if variant not in refused]
    auto.check_reference(artifact.name, variants, refused)
    data = data_of(artifact, f"choosing a variant of {artifact.name}")
    plan = auto.plan_of(artifact, data, question)
    rows = open_test_rows(artifact, data, plan)
    users = len({*rows.users.tolist()})
    run = auto.known_run(auto.runs_of(artifact, runs_path()), question, variants, users)
    if run is not None:
        return auto.choose(run, question, refused)
    judged = "latency alone"
    if rows.labelled and not artifact.is_random:
        judged = f"latency, and accuracy on {len(rows):,} test rows"
    say(f"choosing a variant of {artifact.name}: measuring {judged}, of {', '.join(variants)}")
    with progress_bar(f"choose {artifact.name}") as progress:
        run = measure(artifact, data, plan, variants, progress)
    return auto.choose(run, question, {**run.failed, **refused}, measured=True)
