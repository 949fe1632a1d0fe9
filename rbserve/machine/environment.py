"""Where a measurement was made: the machine, its limits and the software, so that only equals are compared."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path

import msgspec
import psutil

from rbserve.core.libraries import library_versions
from rbserve.core.names import plain_name
from rbserve.core.variants import CPU
from rbserve.machine.noise import energy_absent
from rbserve.machine.procfs import ROOT, cgroup_cpus, cgroup_memory_mb, text, turbo


class Environment(msgspec.Struct, frozen=True):
    """A machine as a measurement sees it. None stands for what this system does not tell.

    `isa` are those of the processor's `flags` that decide about speed. `energy_absent` is the reason why no energy was
    measured, empty where it was. `device` is what the measured variants computed on (`core/variants.py`). `kind` is
    what RBSERVE_MACHINE calls this kind of machine, which a bench on several kinds sets.
    """

    cpu: str
    isa: list[str]
    cores: int
    allowed_cores: int
    memory_mb: int
    governor: str | None
    kernel: str
    container_cpus: float | None
    libraries: dict[str, str]
    flags: list[str] = []
    container_memory_mb: int | None = None
    turbo: bool | None = None
    energy_absent: str = "the version that made these runs did not look for a counter"
    device: str = CPU
    kind: str = ""


KIND = "RBSERVE_MACHINE"

# Instruction sets that decide how fast matrix products run; the other flags do not matter here.
ISA_FLAGS = (
    "avx2",
    "fma",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "sve",
)


# Instruction sets with matrix products of bf16 numbers.
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})


def environment(device: str = CPU) -> Environment:
    """Describes this machine now, of which `device` computes."""
    cpu, flags = processor()
    kind = os.environ.get(KIND, "")
    return Environment(
        cpu=cpu,
        isa=[flag for flag in ISA_FLAGS if flag in flags],
        cores=psutil.cpu_count(logical=True) or 1,
        allowed_cores=len(allowed_cores()),
        memory_mb=psutil.virtual_memory().total >> 20,
        governor=text(ROOT / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        kernel=platform.release(),
        container_cpus=cgroup_cpus(),
        libraries=library_versions(),
        flags=sorted(flags),
        container_memory_mb=cgroup_memory_mb(),
        turbo=turbo(),
        energy_absent=energy_absent(),
        device=device,
        kind=kind and plain_name(kind, KIND, "for example c7i-large"),
    )


def allowed_cores() -> list[int]:
    """The cores this process may run on; empty where the system cannot tell (macOS)."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    return sorted(os.sched_getaffinity(0))


def usable_cores() -> int:
    """Cores that this process can keep busy: those it may run on, or the control group's quota if that is less."""
    cores, quota = len(allowed_cores()) or psutil.cpu_count(logical=True) or 1, cgroup_cpus()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def has_bf16() -> bool:
    """Whether the processor multiplies bf16 matrices by instructions of its own (AVX512-BF16 or AMX)."""
    return bool(BF16_FLAGS & processor()[1])


def processor(root: Path = ROOT) -> tuple[str, set[str]]:
    """Model name and feature flags of the processor."""
    fields: dict[str, str] = {}
    for line in (text(root / "proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or platform.processor() or platform.machine()
    return name, set((fields.get("flags") or fields.get("Features") or "").split())
