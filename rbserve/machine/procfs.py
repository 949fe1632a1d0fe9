"""The small files in which Linux says what it is doing. `root` is / but in tests."""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/")


def text(path: Path) -> str | None:
    """What a file says, None where it is absent or closed to us."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def number(path: Path) -> int | None:
    """The whole number that a file holds."""
    try:
        return int(text(path) or "")
    except ValueError:
        return None


def cgroup_text(v2: str, v1: str, root: Path = ROOT) -> str | None:
    """A file of this process's control group, or of the root group where a container shows no other.

    `v2` is its name in the unified hierarchy ("cpu.max"), `v1` controller and name in the older one ("cpu/cpu.stat").
    """
    controller, _, name = v1.partition("/")
    groups = root / "sys/fs/cgroup"
    for line in (text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, own = line.split(":", 2)
        file = groups / controller / own[1:] / name if controller in controllers.split(",") else None
        file = groups / own[1:] / v2 if not controllers else file
        if file and (content := text(file)) is not None:
            return content
    return text(groups / v2) or text(groups / v1)


def cgroup_cpus(root: Path = ROOT) -> float | None:
    """The control group's processor quota in cores, None when there is none."""
    quota, _, period = (cgroup_text("cpu.max", "cpu/cpu.cfs_quota_us", root) or "").partition(" ")
    period = period or cgroup_text("cpu.max", "cpu/cpu.cfs_period_us", root) or ""
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def cgroup_memory_mb(root: Path = ROOT) -> int | None:
    """The control group's memory limit; None when there is none (version 1 writes a number near 2^63 for that)."""
    limit = cgroup_text("memory.max", "memory/memory.limit_in_bytes", root) or ""
    return int(limit) >> 20 if limit.isdigit() and int(limit) < 2**60 else None


def flag(path: Path) -> bool | None:
    """Whether a file says 1 rather than 0."""
    return {"1": True, "0": False}.get(text(path) or "")


def turbo(root: Path = ROOT) -> bool | None:
    """Whether cores may run faster than their nominal frequency."""
    cpu = root / "sys/devices/system/cpu"
    boost, no_turbo = flag(cpu / "cpufreq/boost"), flag(cpu / "intel_pstate/no_turbo")
    return boost if no_turbo is None else not no_turbo
