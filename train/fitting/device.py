"""What a training is computed on: its device, CPU threads and precision.

A CUDA device takes no code of its own in models and tasks: a task sends its tensors to where the model's weights are.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from rbserve.core.errors import UsageError
from rbserve.core.settings import Settings
from rbserve.machine.environment import has_bf16, usable_cores


def resolve(settings: Settings, gains_by_bf16: bool = False) -> Settings:
    """The settings with this machine's device, threads and precision in the place of auto and 0.

    `gains_by_bf16`: precision auto means bf16 if the device has it. UsageError for a device that is not there.
    """
    device = settings.device
    if device == "auto":
        only_cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
        device = "cuda" if torch.cuda.is_available() and not only_cpu else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        built = (
            "torch sees none" if torch.version.cuda else f"torch {torch.__version__} is built without CUDA"
        )
        raise UsageError(f"there is no CUDA device to train on: {built}", "--device cpu, or --device auto")
    precision = settings.precision
    if precision == "auto":
        has = torch.cuda.is_bf16_supported() if device == "cuda" else has_bf16()
        precision = "bf16" if gains_by_bf16 and has else "fp32"
    threads = settings.threads or min(torch.get_num_threads(), usable_cores())
    return replace(settings, device=device, threads=threads, precision=precision)


def open_device(settings: Settings) -> torch.device:
    """The device of resolved settings; in a training of several processes, that of this process."""
    if settings.device == "cuda":  # cuBLAS repeats its sums bit by bit only with a workspace of fixed size
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    processes = PartialState(cpu=settings.device == "cpu")
    if processes.num_processes > 1:
        atexit.register(_leave_group)
    return processes.device if processes.num_processes > 1 else torch.device(settings.device)


def _leave_group() -> None:
    """Leaves the other processes; whoever ends without that may be aborted by threads that still wait for them."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextmanager
def cpu_threads(threads: int) -> Iterator[None]:
    """Computes what is inside on that many threads of the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
