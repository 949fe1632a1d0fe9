"""The only training loop: Adam, early stopping on a validation metric, and checkpoints to resume from.

Every random number is a function of (seed, epoch, step): the order of the rows and the dropout masks. A run that was
killed and resumed from a checkpoint therefore gives the same bytes as an uninterrupted run, on the same machine and
number of threads.

Runs in one process, or in several under `torchrun` or `accelerate launch`: each batch is divided among them, and
their gradients are summed before an update. The model has no wrapper: torch's DistributedDataParallel would make the
processes wait for each other after each micro batch, and they may have unequal numbers of them.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil
import torch
from accelerate import PartialState
from accelerate.utils import broadcast, reduce
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from rbserve.core.errors import Interrupted, RbserveError, UsageError
from rbserve.core.files import replacing
from rbserve.core.settings import Settings as Settings
from rbserve.core.types import Progress, no_progress
from rbserve.train.fitting.device import cpu_threads, open_device, resolve
from rbserve.train.fitting.forecast import Forecast
from rbserve.train.fitting.tensors import save_tensors

Rows = NDArray[np.int64]
EXTRA_COPIES = 4  # of the trained weights: gradient, two moments, the best weights
WARM_UP = 0.02  # share of a cosine schedule's updates
WINDOW = 50  # batches whose rows are sorted by length together, for little padding


class TrainingTask(Protocol):
    """What a model is trained for: a loss over training rows, and a validation metric, where higher is better.

    If a task has `lengths`, int64[rows], rows of similar length are batched together. If it has `rates`, the weights
    whose names begin with one of them learn at that share of the learning rate.
    """

    @property
    def rows(self) -> int:
        """The number of training rows."""
        ...

    @property
    def metric(self) -> str:
        """The name of the metric that `validate` returns."""
        ...

    def loss(self, model: nn.Module, rows: Rows) -> Tensor:
        """The loss summed over training rows int64[R], a scalar."""
        ...

    def validate(self, model: nn.Module) -> float:
        """The metric of a model in eval mode on the validation split."""
        ...


@dataclass
class State:
    """The progress of a run: `step` batches of `epoch` are done."""

    epoch: int = 0
    step: int = 0
    best_metric: float = -math.inf
    best_epoch: int = -1
    seconds: float = 0.0
    metrics: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Checkpoint:
    """A file to resume from, what identifies its run, and how often it is written."""

    path: Path
    run: dict[str, Any]
    every_s: float = 30.0


def fit(
    model: nn.Module,
    task: TrainingTask,
    settings: Settings,
    checkpoint: Checkpoint,
    resume: bool = False,
    progress: Progress = no_progress,
    trained_before: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> State:
    """Trains `model` in place and leaves it with the weights that validated best, on the device that trained it.

    If the model was `trained_before`, its weights are validated before the first epoch and stay if none is better.
    `say` gets how much work it is and, after a few updates, how long it will take. Raises UsageError for a device that
    is not there, Interrupted after Ctrl-C (SIGINT) or SIGTERM, once the running step is done and saved.
    """
    settings = resolve(settings)
    with cpu_threads(settings.threads):
        return _fit(model, task, settings, checkpoint, resume, progress, trained_before, say)


def _fit(
    model: nn.Module, task: TrainingTask, settings: Settings, checkpoint: Checkpoint, resume: bool, progress: Progress,
    trained_before: bool, say: Callable[[str], None],
) -> State:  # fmt: skip
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # none of it is read
    model.to(open_device(settings))
    require_memory(model)
    is_main = PartialState().is_main_process
    for value in _trained(model).values():
        value.copy_(broadcast(value))
    optimizer = torch.optim.Adam(_groups(model, task), lr=settings.lr, fused=True)
    best = copy.deepcopy(_trained(model))
    state = _load(checkpoint, model, optimizer, best) if resume else State()
    if trained_before and not resume:
        state.best_metric = _validate(model, task)
    total = _total_steps(task, settings)
    saved = started = time.monotonic()
    before = state.seconds
    forecast = Forecast(
        settings,
        _epoch_steps(task, settings),
        _steps_done(state, task, settings),
        say if is_main else _nothing,
    )
    forecast.describe_work(task.rows)

    with _stop_requests() as stop:
        while not _finished(state, settings):
            for batch in _batches(task, settings, state):
                with forecast.update():
                    _step(model, optimizer, task, settings, state, batch)
                state.seconds = before + time.monotonic() - started
                progress(_steps_done(state, task, settings), total, _describe(state, task))
                due = time.monotonic() - saved >= checkpoint.every_s
                if is_main and (due or stop.is_set()):
                    _save(checkpoint, state, model, optimizer, best)
                    saved = time.monotonic()
                if stop.is_set():
                    raise Interrupted(f"stopped in epoch {state.epoch + 1}", "--resume continues from here")
            _end_epoch(model, task, state, best)
            progress(_steps_done(state, task, settings), total, _describe(state, task))
    model.load_state_dict(best, strict=False)
    model.eval()
    return state


def require_memory(model: nn.Module) -> None:
    """Raises RbserveError if training a model that is in memory needs more memory than is free.

    Counted are a gradient, Adam's two moments and the best value of each trained weight, but no activations.
    """
    trained = sum(parameter.numel() * parameter.element_size() for parameter in _trained_parameters(model))
    needed, free = EXTRA_COPIES * trained, psutil.virtual_memory().available
    if needed > free and next(model.parameters()).device.type == "cpu":
        raise RbserveError(
            f"training takes {needed / 2**30:.1f} GiB more than the weights: gradients, Adam's moments and the best "
            f"state, {trained / 2**30:.1f} GiB each; {free / 2**30:.1f} GiB are free",
            "a smaller row, or a machine with more memory",
        )


def require_finite(finite: bool, subject: str) -> None:
    """Raises RbserveError unless finite; `subject` begins the reason, for example "a weight is"."""
    if not finite:
        raise RbserveError(f"training diverged: {subject} not finite", "a lower --lr may help")


def require_finite_weights(model: nn.Module) -> None:
    """Raises RbserveError if a trained weight of the model is not finite."""
    finite = all(torch.isfinite(parameter).all() for parameter in _trained_parameters(model))
    require_finite(finite, "a weight is")


def _trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _groups(model: nn.Module, task: TrainingTask) -> list[dict[str, Any]]:
    """The trained weights by their share of the learning rate, for the optimiser."""
    rates: Mapping[str, float] = getattr(task, "rates", {})
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            share = next((share for prefix, share in rates.items() if name.startswith(prefix)), 1.0)
            groups.setdefault(share, []).append(parameter)
    return [{"params": parameters, "share": share} for share, parameters in groups.items()]


def _batches(task: TrainingTask, settings: Settings, state: State) -> list[Rows]:
    """The batches of the epoch that are left, in the order that the seed and the epoch give."""
    order, rng = epoch_order(task.rows, settings, state.epoch)
    lengths = getattr(task, "lengths", None)
    if lengths is None:
        return _pieces(order, settings.batch)[state.step :]
    windows = [
        window[np.argsort(lengths[window], kind="stable")]
        for window in _pieces(order, WINDOW * settings.batch)
    ]
    batches = [batch for window in windows for batch in _pieces(window, settings.batch)]
    return [batches[place] for place in rng.permutation(len(batches))][state.step :]


def epoch_order(rows: int, settings: Settings, epoch: int) -> tuple[Rows, np.random.Generator]:
    """The rows of an epoch, out of `rows`, in random order; and the generator that drew them, to draw on."""
    rng = np.random.default_rng((settings.seed, epoch))
    return rng.permutation(rows)[: settings.epoch_rows or None], rng


def _pieces(order: Rows, size: int) -> list[Rows]:
    return np.split(order, range(size, len(order), size))


def _trained(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model without its frozen parameters, by name."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def _nothing(_line: str) -> None:
    """Says nothing: of several processes the first one speaks."""


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    task: TrainingTask,
    settings: Settings,
    state: State,
    batch: Rows,
) -> None:
    """One update from one batch, in micro batches; each process computes its share of the rows."""
    torch.manual_seed(
        int(np.random.SeedSequence((settings.seed, state.epoch, state.step)).generate_state(1)[0])
    )
    model.train()
    processes, device = PartialState(), next(model.parameters()).device
    share = batch[processes.process_index :: processes.num_processes]
    for start in range(0, len(share), settings.micro_batch):
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            loss = task.loss(model, share[start : start + settings.micro_batch])
        (loss / len(batch)).backward()  # type: ignore[no-untyped-call]
    _sum_gradients(model)
    for group in optimizer.param_groups:
        group["lr"] = group["share"] * _learning_rate(
            settings, _steps_done(state, task, settings), _total_steps(task, settings)
        )
    optimizer.step()
    optimizer.zero_grad()
    state.step += 1


def _sum_gradients(model: nn.Module) -> None:
    """Gives every process the gradient of the whole batch; a process without rows contributes zero."""
    if PartialState().num_processes == 1:
        return
    for parameter in model.parameters():
        if parameter.requires_grad:
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = reduce(own, "sum")


def _end_epoch(model: nn.Module, task: TrainingTask, state: State, best: dict[str, Tensor]) -> None:
    metric = _validate(model, task)
    state.metrics.append(metric)
    if metric > state.best_metric:
        state.best_metric, state.best_epoch = metric, state.epoch
        for name, value in _trained(model).items():
            best[name].copy_(value)
    state.epoch, state.step = state.epoch + 1, 0


def _validate(model: nn.Module, task: TrainingTask) -> float:
    model.eval()
    with torch.inference_mode():
        return task.validate(model)


def _finished(state: State, settings: Settings) -> bool:
    waited = state.epoch - 1 - state.best_epoch if state.epoch else 0
    return state.epoch >= settings.epochs or waited >= settings.patience


def _learning_rate(settings: Settings, step: int, steps: int) -> float:
    """The learning rate of update number `step`, from 0, of at most `steps`."""
    if settings.schedule == "constant":
        return settings.lr
    warm = math.ceil(WARM_UP * steps)
    fallen = (1 + math.cos(math.pi * step / steps)) / 2
    return settings.lr * min(1.0, (step + 1) / warm) * fallen


def _total_steps(task: TrainingTask, settings: Settings) -> int:
    return settings.epochs * _epoch_steps(task, settings)


def _epoch_steps(task: TrainingTask, settings: Settings) -> int:
    return -(-min(task.rows, settings.epoch_rows or task.rows) // settings.batch)


def _steps_done(state: State, task: TrainingTask, settings: Settings) -> int:
    return state.epoch * _epoch_steps(task, settings) + state.step


def _describe(state: State, task: TrainingTask) -> str:
    epoch = f"steps at most, epoch {state.epoch + 1}"
    if not state.metrics:
        return epoch
    return f"{epoch}, valid {task.metric} {state.metrics[-1]:.4f} (best {state.best_metric:.4f})"


def _save(
    checkpoint: Checkpoint,
    state: State,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    best: dict[str, Tensor],
) -> None:
    tensors = {f"model.{name}": value for name, value in _trained(model).items()}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": value for name, value in moments.items()}
    metadata = {
        "state": json.dumps(dataclasses.asdict(state)),
        "run": json.dumps(checkpoint.run, sort_keys=True),
    }
    with replacing(checkpoint.path) as partial:
        save_tensors(partial, tensors, metadata)


def _load(
    checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer, best: dict[str, Tensor]
) -> State:
    """Restores the state, model, optimizer and best weights; UsageError without a checkpoint of this very run."""
    if not checkpoint.path.is_file():
        raise UsageError(f"nothing to resume: no checkpoint at {checkpoint.path}", "train without --resume")
    try:
        with safe_open(checkpoint.path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (SafetensorError, OSError) as error:
        raise RbserveError(
            f"cannot read checkpoint {checkpoint.path}: {error}", "remove it and train without --resume"
        ) from None
    _check_same_run(checkpoint, json.loads(metadata["run"]))
    model.load_state_dict(_part(tensors, "model."), strict=False)
    for name, value in _part(tensors, "best.").items():
        best[name].copy_(value)
    adam: dict[int, dict[str, Tensor]] = {}
    for name, value in _part(tensors, "adam.").items():
        index, _, moment = name.partition(".")
        adam.setdefault(int(index), {})[moment] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": adam})
    return State(**json.loads(metadata["state"]))


def _check_same_run(checkpoint: Checkpoint, saved: dict[str, Any]) -> None:
    wanted = json.loads(json.dumps(checkpoint.run))
    for key in sorted(wanted.keys() | saved.keys()):
        if wanted.get(key) != saved.get(key):
            raise UsageError(
                f"the checkpoint at {checkpoint.path} is of another run: "
                f"{key} was {saved.get(key)}, now {wanted.get(key)}",
                "use the same options, or train without --resume",
            )


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """Yields an event that the first SIGINT or SIGTERM sets; the second one has its usual effect."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request(number: int, frame: object) -> None:
        del frame
        stop.set()
        signal.signal(number, previous[signal.Signals(number)])

    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in previous:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
