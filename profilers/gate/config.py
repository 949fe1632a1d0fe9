"""What the regression gate tolerates, and how hard it looks: one small TOML file, every key optional.

`rbserve check --init` writes the file with its defaults; an unknown key or a value out of range is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from rbserve.core.errors import UsageError
from rbserve.core.options import Amount, Count, Natural, Positive, check, from_mapping, option_fields

CONFIG_FILE = "rbserve-check.toml"

ErrorRate = Annotated[float, Meta(gt=0.0, lt=0.5)]


class Tolerance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The largest change for the worse that is not a regression: a share, of accuracies an absolute loss."""

    p50: Annotated[Amount, Meta(description="Artefact against artefact, measured in turn.")] = 0.02
    p50_baseline: Annotated[
        Amount, Meta(description="Against a run file: the machine may have drifted since.")
    ] = 0.10
    p50_pytest_benchmark: Annotated[Amount, Meta(description="Files that hold one process each.")] = 0.10
    peak_rss: Annotated[Amount, Meta(description="Peak memory of the process.")] = 0.05
    file_size: Annotated[Amount, Meta(description="Bytes of the variant's files.")] = 0.01
    auc: Annotated[Amount, Meta(description="Absolute loss of AUC.")] = 0.0005
    ndcg: Annotated[Amount, Meta(description="Absolute loss of nDCG@10.")] = msgspec.field(
        name="ndcg@10", default=0.0005
    )
    own: Annotated[
        Amount | None, Meta(description="Absolute loss of a metric of your own, --metric MODULE:FUNCTION.")
    ] = None

    def __post_init__(self) -> None:
        check(self)


class GateConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Error rates and effort of a gate. A round is a fresh process of each side and variant."""

    alpha: Annotated[
        ErrorRate,
        Meta(description="A suite whose every change is within tolerance is REGRESSED at most this often."),
    ] = 0.01
    beta: Annotated[ErrorRate, Meta(description="A change beyond tolerance passes at most this often.")] = (
        0.05
    )
    budget: Annotated[Positive, Meta(description="Seconds; what is not decided by then is INCONCLUSIVE.")] = (
        300.0
    )
    max_rounds: Annotated[
        int, Meta(ge=6, description="Rounds, at most: a fresh process of each side and variant.")
    ] = 96
    runs: Annotated[Count, Meta(description="Timed calls per process and slate, at most.")] = 200
    seconds: Annotated[
        Positive, Meta(description="Seconds of timed calls per process and slate, at most.")
    ] = 0.25
    threads: Annotated[Count, Meta(description="Threads of a call, each on a core of its own.")] = 1
    test_users: Annotated[
        Natural, Meta(description="Test users for accuracy, drawn at random; 0 takes all.")
    ] = 0
    seed: Annotated[int, Meta(description="Seed of the requests and of the test users drawn.")] = 2024
    process_cv: Annotated[
        Amount,
        Meta(description="Spread of a median between processes, for pytest-benchmark files of one process."),
    ] = 0.015
    tolerance: Annotated[
        Tolerance, Meta(description="Shares, 0.02 is 2%; of accuracies, the absolute loss.")
    ] = Tolerance()

    def __post_init__(self) -> None:
        check(self)


def write_config(path: Path) -> None:
    """Writes the defaults, with what they mean; UsageError when the file is there."""
    from rbserve.core.files import write_bytes  # imported here: the help of commands reads this module

    if path.exists():
        raise UsageError(f"{path} is there already", "remove it to start again from the defaults")
    lines = [
        "# The regression gate, rbserve check. Every key may be left out; these are the defaults.",
        "",
        *_lines(GateConfig),
        "",
        f"[tolerance]  # {option_fields(GateConfig)['tolerance'].description}",
        *_lines(Tolerance),
    ]
    write_bytes(path, "\n".join([*lines, ""]).encode())


def _lines(record: type[Any]) -> Iterator[str]:
    """The fields of a record with plain values, as lines of TOML with their meaning behind them."""
    for key, field in option_fields(record).items():
        if not isinstance(field.default, Tolerance):
            name = key if key.isidentifier() else f'"{key}"'
            value = f"{name} = {field.default}" if field.default is not None else f"# {name} = 0.01"
            yield f"{value:<30}# {field.description}"


def read_config(path: Path | None) -> GateConfig:
    """The given file, else `rbserve-check.toml` of the working directory, else the defaults."""
    if path is None:
        path = Path(CONFIG_FILE)
        if not path.is_file():
            return GateConfig()
    try:
        values = msgspec.toml.decode(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "rbserve check --init writes one") from None
    except msgspec.MsgspecError as error:
        raise UsageError(
            f"{path} is not a gate's configuration: {error}", "rbserve check --init shows the keys"
        ) from None
    try:
        if isinstance(values.get("tolerance"), dict):
            values["tolerance"] = from_mapping(Tolerance, values["tolerance"])
        return from_mapping(GateConfig, values)
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", error.hint) from None
