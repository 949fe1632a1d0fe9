"""Where a measurement was made: the machine, its limits and the software, so that only equals are compared."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import msgspec
import psutil

from rbserve.core.artifact import library_versions


class Environment(msgspec.Struct, frozen=True):
    """A machine as a measurement sees it. None stands for what this system does not tell."""

    cpu: str
    isa: list[str]
    cores: int
    allowed_cores: int
    memory_mb: int
    governor: str | None
    kernel: str
    container_cpus: float | None
    libraries: dict[str, str]


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


def environment() -> Environment:
    """Describes this machine now."""
    cpu, flags = _processor()
    return Environment(
        cpu=cpu,
        isa=[flag for flag in ISA_FLAGS if flag in flags],
        cores=psutil.cpu_count(logical=True) or 1,
        allowed_cores=len(allowed_cores()),
        memory_mb=psutil.virtual_memory().total >> 20,
        governor=_text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        kernel=platform.release(),
        container_cpus=_container_cpus(),
        libraries=library_versions(),
    )


def allowed_cores() -> list[int]:
    """The cores this process may run on; empty where the system cannot tell (macOS)."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    return sorted(os.sched_getaffinity(0))


def _processor() -> tuple[str, set[str]]:
    """Model name and feature flags of the processor."""
    fields: dict[str, str] = {}
    for line in (_text(Path("/proc/cpuinfo")) or "").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or platform.processor() or platform.machine()
    return name, set((fields.get("flags") or fields.get("Features") or "").split())


def _container_cpus() -> float | None:
    """The container's processor quota in cores (cgroup v2), None when there is none."""
    quota, _, period = (_text(Path("/sys/fs/cgroup/cpu.max")) or "").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
