"""The signature of a graph: which tensors have a row a candidate, which columns fill them, which output has the scores.

What nobody said is guessed, and each guess is a sentence that the user reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rbserve.core.adoption import AdoptOptions
from rbserve.core.errors import UsageError, unknown_name
from rbserve.core.requests import SLATE, TEXT, Signature, TensorSpec
from rbserve.data.request_set import ColumnRecord
from rbserve.exporters.adopt.columns import fill_inputs
from rbserve.exporters.adopt.slate import find_slate

SCORES = (
    "scores", "score", "probabilities", "probability", "output_probability", "logits", "predictions", "prediction",
    "output",
)  # fmt: skip
"""Names of outputs that have the scores, the likeliest first."""


def guess_signature(
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    columns: Mapping[str, ColumnRecord],
    options: AdoptOptions,
    features: Sequence[str] = (),
) -> tuple[Signature, list[str]]:
    """The signature of a model with these tensors, and a line for each thing in it that nobody said.

    The dimensions of the tensors are those of the model: numbers and its own symbols. `features` are the names that the
    model itself gives the columns of its input, if it does. Raises UsageError where a guess is impossible.
    """
    guessed: list[str] = []
    score = find_score(outputs, options.score, guessed)
    slate = find_slate(inputs, score, options.slate_dim, guessed)
    own = {options.label, options.group, options.user} - {
        column for names in options.columns_of.values() for column in names
    }
    usable = {
        name: record
        for name, record in columns.items()
        if name not in own or name in {spec.name for spec in inputs}
    }
    filled = fill_inputs([slate.mark(spec) for spec in inputs], usable, options.columns_of, features, guessed)
    marked = [slate.mark(spec) for spec in outputs]
    column = _score_column(slate.mark(score), guessed)
    return Signature(filled, marked, score.name, column, slate.fixed), guessed


def find_score(outputs: Sequence[TensorSpec], wanted: str | None, guessed: list[str]) -> TensorSpec:
    """The output that has the scores: the one that is said, the only one, or the one with the likeliest name."""
    by_name = {spec.name: spec for spec in outputs if spec.dtype != TEXT}
    if wanted is not None:
        if wanted not in by_name:
            raise unknown_name("output of --score", wanted, by_name)
        return by_name[wanted]
    fractions = {name: spec for name, spec in by_name.items() if spec.dtype.startswith("float")} or by_name
    likely = [*fractions] if len(fractions) == 1 else [name for name in SCORES if name in fractions]
    if not likely:
        raise UsageError(
            f"which output has the scores is not clear: {', '.join(map(str, outputs)) or 'it has none'}",
            f"--score {next(iter(fractions))} names it"
            if fractions
            else "export it with an output of numbers",
        )
    if len(outputs) > 1:
        reason = "it is the only one of fractions" if len(fractions) == 1 else "its name says so"
        guessed.append(f"The output {likely[0]} has the scores: {reason}.")
    return fractions[likely[0]]


def _score_column(score: TensorSpec, guessed: list[str]) -> int | None:
    """The column of the scores where the output has several a candidate: the last of two."""
    last = score.dims[-1] if len(score.dims) > 1 and SLATE in score.dims else 1
    if not isinstance(last, int) or last == 1:
        return None
    if last != 2:
        raise UsageError(
            f"the output {score} has {last} values for each candidate: a model of requests gives each one score",
            "name another output with --score, or export the model with one score a candidate",
        )
    guessed.append(f"The second column of the output {score.name} is the score: that of class 1.")
    return 1
