"""The counters of an invented machine, and those of this one."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from machine import write_tree

from rbserve.machine.noise import TICK_NS, Snapshot, between, energy_absent, snapshot, throttled_ns
from rbserve.machine.procfs import cgroup_cpus, cgroup_memory_mb, turbo

RAPL = "sys/class/powercap/intel-rapl:{}/{}"


def stat(steal_0: int, steal_1: int) -> str:
    return f"cpu 9 9 9 9 9 9 9 99 0 0\ncpu0 1 2 3 4 5 6 7 {steal_0} 0 0\ncpu1 1 2 3 4 5 6 7 {steal_1} 0 0\nintr 5"


def energy(package_0: int, package_1: int) -> dict[str, str]:
    return {
        RAPL.format("0", "energy_uj"): str(package_0),
        RAPL.format("0", "max_energy_range_uj"): "1000",
        RAPL.format("1", "energy_uj"): str(package_1),
        RAPL.format("1", "max_energy_range_uj"): "1000",
        RAPL.format("0:0", "energy_uj"): "77",  # a part of package 0, which must not count twice
    }


def test_what_happened_between_two_looks_is_the_difference_of_the_counters(tmp_path: Path) -> None:
    schedule = "proc/self/task/{}/schedstat"
    khz = "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq"
    write_tree(tmp_path, {
        "proc/stat": stat(3, 5), schedule.format(7): "10 100 3", schedule.format(8): "10 50 3", khz: "3000000",
        "sys/fs/cgroup/cpu.stat": "usage_usec 5\nthrottled_usec 10", **energy(100, 900),
    })  # fmt: skip
    before = snapshot([1], tmp_path)
    write_tree(tmp_path, {
        "proc/stat": stat(50, 9), schedule.format(7): "10 130 3", schedule.format(8): "10 55 3", khz: "2400000",
        "sys/fs/cgroup/cpu.stat": "usage_usec 5\nthrottled_usec 12", **energy(150, 20),
    })  # fmt: skip
    noise = between(before, snapshot([1], tmp_path))
    assert noise.waited_ns == 35
    assert noise.steal_ns == 4 * TICK_NS
    assert noise.throttled_ns == 2000
    assert noise.mhz == (3000, 2400)
    assert noise.energy_uj == 50 + 120  # the second counter came round


def at(wall_ns: int, waited_ns: int, ran_ns: int, cores: int = 1) -> Snapshot:
    return Snapshot(wall_ns, waited_ns, None, None, None, {}, {}, ran_ns, cores)


def test_threads_that_wait_for_one_another_are_no_load_by_others() -> None:
    """Three threads take turns on one core: each waits two thirds of the time, nobody else runs."""
    noise = between(at(0, 0, 0), at(900, 1800, 900))
    assert noise.waited_ns == 0


def test_waits_are_at_most_the_time_in_which_others_had_the_cores() -> None:
    assert between(at(0, 0, 0), at(1000, 1110, 300)).waited_ns == 700
    assert between(at(0, 0, 0), at(1000, 1110, 300, cores=2)).waited_ns == 1110
    assert between(at(0, 0, 0), at(1000, 40, 960)).waited_ns == 40


def test_a_machine_without_counters_has_none(tmp_path: Path) -> None:
    noise = between(snapshot([0], tmp_path), snapshot([0], tmp_path))
    assert (noise.waited_ns, noise.steal_ns, noise.throttled_ns, noise.mhz, noise.energy_uj) == (None,) * 5
    assert "no RAPL or hwmon counter" in energy_absent(tmp_path)


def test_a_counter_that_came_round_without_telling_its_range_is_not_guessed(tmp_path: Path) -> None:
    name = RAPL.format("0", "energy_uj")
    before = snapshot([], write_tree(tmp_path, {name: "900"}))
    assert between(before, snapshot([], write_tree(tmp_path, {name: "20"}))).energy_uj is None


def test_a_counter_for_root_alone_is_absent_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path, {RAPL.format("0", "energy_uj"): ""})  # unreadable: root reads what others may not
    assert "root only" in energy_absent(tmp_path)


def test_sockets_of_a_hardware_monitor_count_where_there_is_no_rapl(tmp_path: Path) -> None:
    monitor = "sys/class/hwmon/hwmon3/energy{}_{}"
    files = {monitor.format(1, "input"): "5", monitor.format(1, "label"): "Ecore000",
             monitor.format(9, "input"): "70", monitor.format(9, "label"): "Esocket0"}  # fmt: skip
    assert snapshot([], write_tree(tmp_path, files)).energy_uj == {"hwmon3/energy9_input": 70}
    assert energy_absent(tmp_path) == ""


@pytest.mark.parametrize(
    ("files", "cpus", "memory_mb"),
    [
        ({"cpu.max": "150000 100000", "memory.max": str(2**30)}, 1.5, 1024),
        ({"cpu.max": "max 100000", "memory.max": "max"}, None, None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000",
          "memory/memory.limit_in_bytes": str(2**29)}, 0.5, 512),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000",
          "memory/memory.limit_in_bytes": "9223372036854771712"}, None, None),
        ({}, None, None),
    ],
)  # fmt: skip
def test_limits_of_a_container_in_both_versions_of_cgroups(
    tmp_path: Path, files: dict[str, str], cpus: float | None, memory_mb: int | None
) -> None:
    write_tree(tmp_path, {f"sys/fs/cgroup/{name}": content for name, content in files.items()})
    assert cgroup_cpus(tmp_path) == cpus
    assert cgroup_memory_mb(tmp_path) == memory_mb


def test_a_process_is_held_to_its_own_group_where_that_is_to_be_seen(tmp_path: Path) -> None:
    write_tree(tmp_path, {
        "proc/self/cgroup": "0::/system.slice/job", "sys/fs/cgroup/cpu.max": "max 100000",
        "sys/fs/cgroup/system.slice/job/cpu.max": "20000 100000",
    })  # fmt: skip
    assert cgroup_cpus(tmp_path) == 0.2
    write_tree(tmp_path, {
        "proc/self/cgroup": "3:cpu,cpuacct:/job\n1:memory:/", "sys/fs/cgroup/cpu/job/cpu.stat": "throttled_time 8",
    })  # fmt: skip
    assert throttled_ns(tmp_path) == 8


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [("cpufreq/boost", "1", True), ("cpufreq/boost", "0", False), ("intel_pstate/no_turbo", "1", False)],
)
def test_turbo_is_told_by_two_drivers_in_two_ways(
    tmp_path: Path, name: str, content: str, expected: bool
) -> None:
    assert turbo(tmp_path) is None
    assert turbo(write_tree(tmp_path, {f"sys/devices/system/cpu/{name}": content})) is expected


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counters of Linux")
def test_this_machine_counts_the_time_that_passes() -> None:
    before = snapshot([0])
    time.sleep(0.01)
    noise = between(before, snapshot([0]))
    assert noise.wall_ns >= 10_000_000
    assert noise.waited_ns is None or noise.waited_ns >= 0
