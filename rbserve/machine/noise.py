"""What disturbs a measurement while it runs: waits, steal, throttling, frequency; and the energy it takes.

Counters of Linux, read before and after the timed calls and never during one. None stands for a counter that this
system does not have.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from rbserve.machine.procfs import ROOT, cgroup_text, number, text

TICK_NS = 1_000_000_000 // (os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100)
THROTTLED = {"throttled_usec": 1000, "throttled_time": 1}  # cgroup v2 counts microseconds, v1 nanoseconds


class Noise(msgspec.Struct, frozen=True):
    """What happened between two looks at the counters, in nanoseconds.

    `waited_ns` is how long this process's threads could have run and another process had the core, at most the time of
    its cores in which it did not run itself: threads that wait for one another are no load by others. `steal_ns` is how
    long the hypervisor had it (in ticks of 10 ms); `throttled_ns` how long the container's quota was spent. `mhz` is
    the frequency of the first core before and after, `energy_uj` the microjoules of the whole processor package.
    """

    wall_ns: int
    waited_ns: int | None
    steal_ns: int | None
    throttled_ns: int | None
    mhz: tuple[float, float] | None
    energy_uj: int | None


class Snapshot(msgspec.Struct, frozen=True):
    """The counters at one moment; `ran_ns` is how long this process's threads have had a core, of so many `cores`."""

    wall_ns: int
    waited_ns: int | None
    steal_ns: int | None
    throttled_ns: int | None
    mhz: float | None
    energy_uj: dict[str, int]
    energy_range_uj: dict[str, int]
    ran_ns: int | None = None
    cores: int = 1


def snapshot(cores: Sequence[int], root: Path = ROOT) -> Snapshot:
    """Reads the counters of this process and its cores."""
    counters = energy_counters(root)
    ran_ns, waited_ns = _scheduled_ns(root)
    return Snapshot(
        wall_ns=time.perf_counter_ns(),
        waited_ns=waited_ns,
        steal_ns=_steal_ns(cores, root),
        throttled_ns=throttled_ns(root),
        mhz=frequency_mhz(cores[0], root) if cores else None,
        energy_uj={name: value for name, path in counters.items() if (value := number(path)) is not None},
        energy_range_uj={
            name: top for name, path in counters.items() if (top := number(path.with_name("max_energy_range_uj")))
        },
        ran_ns=ran_ns,
        cores=max(1, len(cores)),
    )  # fmt: skip


def between(before: Snapshot, after: Snapshot) -> Noise:
    """What the counters say of the time between two snapshots."""
    return Noise(
        wall_ns=after.wall_ns - before.wall_ns,
        waited_ns=_waited_ns(before, after),
        steal_ns=_grown(before.steal_ns, after.steal_ns),
        throttled_ns=_grown(before.throttled_ns, after.throttled_ns),
        mhz=(before.mhz, after.mhz) if before.mhz is not None and after.mhz is not None else None,
        energy_uj=_energy_uj(before, after),
    )


def _waited_ns(before: Snapshot, after: Snapshot) -> int | None:
    """Waits summed over threads pass the time of the cores where threads wait for one another, so they are bounded."""
    waited_ns, ran_ns = _grown(before.waited_ns, after.waited_ns), _grown(before.ran_ns, after.ran_ns)
    if waited_ns is None:
        return None
    cores_ns = after.cores * (after.wall_ns - before.wall_ns)
    return min(waited_ns, max(0, cores_ns - (ran_ns or 0)))


def _grown(before: int | None, after: int | None) -> int | None:
    """A thread that ended takes its count along, so a sum may shrink: then nothing is known but that it is not less."""
    return None if before is None or after is None else max(0, after - before)


def _energy_uj(before: Snapshot, after: Snapshot) -> int | None:
    """Microjoules of all counters; one that came round to 0 counts on from its range."""
    spent = None
    for name, start in before.energy_uj.items():
        if (end := after.energy_uj.get(name)) is None:
            return None
        grown = end - start if end >= start else end - start + after.energy_range_uj.get(name, 0)
        if grown < 0:
            return None
        spent = (spent or 0) + grown
    return spent


# ---- Single counters ----


def energy_counters(root: Path = ROOT) -> dict[str, Path]:
    """Files that count microjoules, by name: RAPL's packages, else those of a hardware monitor (such as amd_energy)."""
    packages = {
        path.parent.name: path for path in sorted(root.glob("sys/class/powercap/*-rapl:[0-9]*/energy_uj"))
        if path.parent.name.count(":") == 1  # a package; those with two colons are part of one
    }  # fmt: skip
    if packages:
        return {name: path for name, path in packages.items() if number(path) is not None}
    sensors = sorted(root.glob("sys/class/hwmon/hwmon*/energy*_input"))
    sockets = [path for path in sensors if "socket" in (text(path.with_name(_label(path))) or "").lower()]
    return {f"{path.parent.name}/{path.stem}": path for path in sockets if number(path) is not None}


def energy_absent(root: Path = ROOT) -> str:
    """Why no energy can be measured; empty where it can."""
    if energy_counters(root):
        return ""
    if any(root.glob("sys/class/powercap/*-rapl:[0-9]*/energy_uj")):
        return "the RAPL counters may be read by root only (chmod a+r /sys/class/powercap/*/energy_uj)"
    return "no RAPL or hwmon counter; virtual machines seldom have one"


def frequency_mhz(core: int, root: Path = ROOT) -> float | None:
    """What the kernel says a core runs at."""
    khz = number(root / f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq")
    return None if khz is None else khz / 1000


def throttled_ns(root: Path = ROOT) -> int | None:
    """Nanoseconds for which the container's processes had spent their quota (cgroup v2, or v1)."""
    for line in (cgroup_text("cpu.stat", "cpu/cpu.stat", root) or "").splitlines():
        name, _, value = line.partition(" ")
        if name in THROTTLED and value.isdigit():
            return int(value) * THROTTLED[name]
    return None


def _scheduled_ns(root: Path) -> tuple[int | None, int | None]:
    """Nanoseconds that this process's threads ran, and that they stood in a run queue (schedstat); None: not told."""
    figures = [(text(path) or "").split() for path in root.glob("proc/self/task/*/schedstat")]
    known = [figure for figure in figures if len(figure) == 3]
    if not known:
        return None, None
    return sum(int(ran) for ran, _, _ in known), sum(int(waited) for _, waited, _ in known)


def _steal_ns(cores: Sequence[int], root: Path) -> int | None:
    """Nanoseconds that the hypervisor kept these cores for others."""
    names = {f"cpu{core}" for core in cores}
    ticks = [
        int(fields[8])
        for line in (text(root / "proc/stat") or "").splitlines()
        if len(fields := line.split()) > 8 and fields[0] in names
    ]
    return sum(ticks) * TICK_NS if ticks else None


def _label(sensor: Path) -> str:
    return sensor.name.replace("_input", "_label")
