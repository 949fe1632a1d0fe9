"""What on this machine disturbs measurements, which features it lacks, and what to do about it.

Nothing is measured here and nothing changed: the kernel's own files are read. A finding is `ok`, `noise` (it disturbs,
`remedy` says what helps), `missing` (a feature that would make models faster or figures fuller) or `unknown`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from rbserve.core.libraries import library_versions
from rbserve.machine.environment import allowed_cores, processor
from rbserve.machine.noise import energy_absent, energy_counters
from rbserve.machine.procfs import ROOT, cgroup_cpus, cgroup_memory_mb, cgroup_text, text, turbo

State = Literal["ok", "noise", "missing", "unknown"]

# What each instruction set is to a model, and the flags of which one is enough.
FEATURES = {
    "AVX-512": (("avx512f",), "fp32 products of 16 numbers instead of 8"),
    "VNNI": (("avx512_vnni", "avx_vnni"), "int8 products up to four times as fast as fp32, instead of twice"),
    "BF16": (("avx512_bf16", "amx_bf16"), "openvino-bf16, and torch-bf16 without emulation"),
    "AMX": (("amx_int8", "amx_bf16"), "int8 and bf16 products in tiles"),
}
ARM_FEATURES = {
    "SVE": (("sve",), "vectors longer than NEON's"),
    "dot product": (("asimddp",), "int8 products"),
    "BF16": (("bf16",), "torch-bf16 without emulation"),
    "I8MM": (("i8mm",), "int8 products in tiles"),
}
BUSY = 0.1  # load average a core, from others, that disturbs


class Finding(msgspec.Struct, frozen=True):
    """The result of one check, and what helps against a fault."""

    name: str
    state: State
    seen: str
    remedy: str = ""


class Diagnosis(msgspec.Struct, frozen=True):
    """All findings, the core that a profile is pinned to, and versions."""

    cpu: str
    core: int | None
    findings: list[Finding]
    versions: dict[str, str]


def examine(root: Path = ROOT, cores: list[int] | None = None) -> Diagnosis:
    """Checks this machine; the pinned core is the last one that this process may use."""
    cores = allowed_cores() if cores is None else cores
    core = cores[-1] if cores else None
    cpu, flags = processor(root)
    findings = [
        *_frequency(root, core),
        *_neighbours(root, core),
        *_container(root),
        *_load(root),
        *_memory(root),
        *_features(root, flags),
    ]
    kernel = text(root / "proc/sys/kernel/osrelease")
    return Diagnosis(cpu, core, findings, {"kernel": kernel or "unknown", **library_versions()})


def _frequency(root: Path, core: int | None) -> Iterator[Finding]:
    governor = text(root / f"sys/devices/system/cpu/cpu{core or 0}/cpufreq/scaling_governor")
    if governor is None:
        yield Finding("frequency governor", "unknown", "not told by this system; usual in a virtual machine")
    elif governor == "performance":
        yield Finding("frequency governor", "ok", governor)
    else:
        yield Finding(
            "frequency governor", "noise", governor, "sudo cpupower frequency-set --governor performance"
        )
    boost = turbo(root)
    if boost is None:
        yield Finding("turbo", "unknown", "not told by this system; usual in a virtual machine")
    elif boost:
        off = (
            "echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo"
            if (root / "sys/devices/system/cpu/intel_pstate").exists()
            else "echo 0 | sudo tee /sys/devices/system/cpu/cpufreq/boost"
        )
        yield Finding("turbo", "noise", "on: the frequency depends on heat and on the other cores", off)
    else:
        yield Finding("turbo", "ok", "off")


def _neighbours(root: Path, core: int | None) -> Iterator[Finding]:
    siblings = text(root / f"sys/devices/system/cpu/cpu{core or 0}/topology/thread_siblings_list")
    if siblings is None:
        yield Finding("SMT siblings", "unknown", "not told by this system")
    elif siblings == str(core or 0):
        yield Finding(
            "SMT siblings", "ok", f"core {siblings} has its pipelines for itself, as far as the system tells"
        )
    else:
        yield Finding(
            "SMT siblings", "noise", f"the pinned core shares its pipelines: {siblings}",
            "echo off | sudo tee /sys/devices/system/cpu/smt/control, or keep the sibling idle",
        )  # fmt: skip


def _container(root: Path) -> Iterator[Finding]:
    quota = cgroup_cpus(root)
    throttled = _throttled_periods(root)
    if quota is None:
        yield Finding("processor quota", "ok", "none")
    else:
        yield Finding(
            "processor quota", "noise", f"{quota:g} cores, throttled in {throttled} periods so far",
            "run the container without --cpus (Kubernetes: whole cores, static CPU manager policy)",
        )  # fmt: skip
    limit = cgroup_memory_mb(root)
    yield Finding("memory limit", "ok", "none" if limit is None else f"{limit:,} MB")


def _throttled_periods(root: Path) -> int:
    for line in (cgroup_text("cpu.stat", "cpu/cpu.stat", root) or "").splitlines():
        name, _, value = line.partition(" ")
        if name == "nr_throttled":
            return int(value)
    return 0


def _load(root: Path) -> Iterator[Finding]:
    words = (text(root / "proc/loadavg") or "").split()
    if not words:
        yield Finding("load average", "unknown", "not told by this system")
    else:
        load, cores = float(words[0]), os.cpu_count() or 1
        busy = load > BUSY * cores
        remedy = "stop other work, or measure when there is none" if busy else ""
        yield Finding("load average", "noise" if busy else "ok", f"{load:g} on {cores} cores", remedy)
    first = (text(root / "proc/stat") or "").splitlines()[:1]
    ticks = [int(word) for word in first[0].split()[1:9]] if first else []
    if len(ticks) < 8:
        yield Finding("steal time", "unknown", "not told by this system")
    else:
        share = ticks[7] / max(1, sum(ticks))
        noisy = share > 0.001
        remedy = "a machine with dedicated cores, or another hour" if noisy else ""
        yield Finding("steal time", "noise" if noisy else "ok", f"{share:.2%} of all time since boot", remedy)


def _memory(root: Path) -> Iterator[Finding]:
    areas = (text(root / "proc/swaps") or "").splitlines()[1:]
    used_mb = sum(int(fields[3]) for area in areas if len(fields := area.split()) > 3) >> 10
    if not areas:
        yield Finding("swap", "ok", "none")
    elif used_mb:
        yield Finding("swap", "noise", f"{used_mb:,} MB in use", "free memory, then sudo swapoff --all")
    else:
        yield Finding("swap", "ok", "there is some, unused")
    pages = text(root / "sys/kernel/mm/transparent_hugepage/enabled")
    if pages is None:
        yield Finding("transparent huge pages", "unknown", "not told by this system")
    else:
        chosen = pages[pages.find("[") + 1 : pages.find("]")]
        # A large weight may or may not get huge pages from one process to the next.
        remedy = (
            "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"
            if chosen == "always"
            else ""
        )
        yield Finding("transparent huge pages", "noise" if remedy else "ok", chosen, remedy)


def _features(root: Path, flags: set[str]) -> Iterator[Finding]:
    for name, (any_of, gain) in (ARM_FEATURES if "asimd" in flags else FEATURES).items():
        present = [flag for flag in any_of if flag in flags]
        if present:
            yield Finding(name, "ok", ", ".join(present))
        else:
            yield Finding(name, "missing", "not on this processor", f"a CPU that has it gives {gain}")
    absent = energy_absent(root)
    if absent:
        yield Finding(
            "energy counter", "missing", absent, "measure on the bare machine to have energy per call"
        )
    else:
        yield Finding("energy counter", "ok", ", ".join(energy_counters(root)))
