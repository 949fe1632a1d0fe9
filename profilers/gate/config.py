"""What the regression gate tolerates, and how hard it looks: one small TOML file, every key optional.

`rbserve check --init` writes the file with its defaults; an unknown key or a value out of range is an error.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from rbserve.core.errors import UsageError
from rbserve.core.files import write_bytes

CONFIG_FILE = "rbserve-check.toml"


class Tolerance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The largest change for the worse that is not a regression: a share, of accuracies an absolute loss.

    p50 of two artefacts measured in turn; `p50_baseline` of a run file, whose machine may have drifted since;
    `p50_pytest_benchmark` of files that hold one process each.
    """

    p50: float = 0.02
    p50_baseline: float = 0.10
    p50_pytest_benchmark: float = 0.10
    peak_rss: float = 0.05
    file_size: float = 0.01
    auc: float = 0.0005
    ndcg: float = msgspec.field(name="ndcg@10", default=0.0005)


class GateConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Error rates and effort of a gate.

    `alpha`: a suite whose every change lies within tolerance is called REGRESSED at most this often. `beta`: a change
    beyond tolerance passes at most this often. A round is a fresh process of each side and variant, of at most
    `runs` timed calls or `seconds` of them a slate. `process_cv` is the spread of a median between processes that a
    file of one process cannot show (the coefficient of variation). `test_users`: accuracy on so many, 0 for all.
    """

    alpha: float = 0.01
    beta: float = 0.05
    budget: float = 300.0
    max_rounds: int = 96
    runs: int = 200
    seconds: float = 0.25
    threads: int = 1
    test_users: int = 0
    seed: int = 2024
    process_cv: float = 0.015
    tolerance: Tolerance = Tolerance()


_TEMPLATE = """\
# The regression gate, rbserve check. Every key may be left out; these are the defaults.

alpha = {c.alpha}        # a suite whose every change lies within tolerance is called REGRESSED at most this often
beta = {c.beta}         # a change beyond tolerance passes at most this often
budget = {c.budget}      # seconds; what is not decided by then is INCONCLUSIVE
max_rounds = {c.max_rounds}     # a round is a fresh process of each side and variant
runs = {c.runs}          # timed calls a process and slate, at most
seconds = {c.seconds}      # of timed calls a process and slate, at most
threads = {c.threads}         # each on a core of its own
test_users = {c.test_users}      # accuracy on so many test users, drawn at random; 0: all of them
seed = {c.seed}         # of the requests, and of the users drawn
process_cv = {c.process_cv}  # pytest-benchmark files of one process: the spread between processes they do not show

[tolerance]        # shares: 0.02 is 2%. Of accuracies, the absolute loss
p50 = {c.tolerance.p50}         # artefact against artefact
p50_baseline = {c.tolerance.p50_baseline} # against a run file: the machine may have drifted since
p50_pytest_benchmark = {c.tolerance.p50_pytest_benchmark}
peak_rss = {c.tolerance.peak_rss}
file_size = {c.tolerance.file_size}
auc = {c.tolerance.auc}
"ndcg@10" = {c.tolerance.ndcg}
"""


def write_config(path: Path) -> None:
    """Writes the defaults, with what they mean; UsageError when the file is there."""
    if path.exists():
        raise UsageError(f"{path} is there already", "remove it to start again from the defaults")
    write_bytes(path, _TEMPLATE.format(c=GateConfig()).encode())


def read_config(path: Path | None) -> GateConfig:
    """The given file, else `rbserve-check.toml` of the working directory, else the defaults."""
    if path is None:
        path = Path(CONFIG_FILE)
        if not path.is_file():
            return GateConfig()
    try:
        config = msgspec.toml.decode(path.read_bytes(), type=GateConfig)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "rbserve check --init writes one") from None
    except msgspec.MsgspecError as error:
        raise UsageError(
            f"{path} is not a gate's configuration: {error}", "rbserve check --init shows the keys"
        ) from None
    return checked(config)


def checked(config: GateConfig) -> GateConfig:
    """The configuration. Raises UsageError for a value out of range."""
    for name in ("alpha", "beta"):
        if not 0 < getattr(config, name) < 0.5:
            raise UsageError(f"{name} must lie between 0 and 0.5, not {getattr(config, name)}")
    for name in ("budget", "seconds"):
        if getattr(config, name) <= 0:
            raise UsageError(f"{name} must be more than 0 seconds, not {getattr(config, name)}")
    if config.max_rounds < 6:
        raise UsageError(
            f"max_rounds must be at least 6, not {config.max_rounds}", "fewer rounds are not judged"
        )
    if config.process_cv < 0:
        raise UsageError(f"process_cv must be at least 0, not {config.process_cv}")
    for name, value in msgspec.to_builtins(config.tolerance).items():
        if value < 0:
            raise UsageError(f"tolerance {name} must be at least 0, not {value}", "0.02 is 2%")
    return config
