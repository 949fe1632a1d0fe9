"""What the doctor says of invented machines."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from entry_point import rbserve
from machine import write_tree

from rbserve.profilers.doctor import Finding, examine

CPU = "sys/devices/system/cpu"
NOISY = {
    "proc/cpuinfo": "model name\t: Invented 3000\nflags\t\t: avx2 fma avx512f",
    f"{CPU}/cpu3/cpufreq/scaling_governor": "powersave",
    f"{CPU}/intel_pstate/no_turbo": "0",
    f"{CPU}/cpu3/topology/thread_siblings_list": "1,3",
    "proc/self/cgroup": "0::/",
    "sys/fs/cgroup/cpu.max": "150000 100000",
    "sys/fs/cgroup/cpu.stat": "nr_periods 9\nnr_throttled 4\nthrottled_usec 5",
    "proc/loadavg": "99.00 1 1 1/1 1",
    "proc/stat": "cpu 500 0 100 300 0 0 0 100 0 0",
    "proc/swaps": "Filename Type Size Used Priority\n/swap file 4096000 2048000 -2",
    "sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never",
}
QUIET = {
    "proc/cpuinfo": "model name\t: Invented 4000\nflags\t\t: avx512f avx512_vnni avx512_bf16 amx_int8",
    f"{CPU}/cpu3/cpufreq/scaling_governor": "performance",
    f"{CPU}/cpufreq/boost": "0",
    f"{CPU}/cpu3/topology/thread_siblings_list": "3",
    "proc/loadavg": "0.00 0 0 1/1 1",
    "proc/stat": "cpu 500 0 100 300 0 0 0 0 0 0",
    "proc/swaps": "Filename Type Size Used Priority",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
    "sys/class/powercap/intel-rapl:0/energy_uj": "5",
}


def findings(root: Path, files: dict[str, str]) -> dict[str, Finding]:
    diagnosis = examine(write_tree(root, files), cores=[2, 3])
    assert diagnosis.core == 3
    assert "numpy" in diagnosis.versions
    return {one.name: one for one in diagnosis.findings}


@pytest.mark.parametrize(
    ("name", "seen", "remedy"),
    [
        ("frequency governor", "powersave", "cpupower"),
        ("turbo", "on", "intel_pstate/no_turbo"),
        ("SMT siblings", "1,3", "smt/control"),
        ("processor quota", "1.5 cores, throttled in 4 periods", "--cpus"),
        ("load average", "99", "stop other work"),
        ("steal time", "10.00%", "dedicated cores"),
        ("swap", "2,000 MB in use", "swapoff"),
        ("transparent huge pages", "always", "madvise"),
    ],
)
def test_each_source_of_noise_is_found_and_has_a_remedy(
    tmp_path: Path, name: str, seen: str, remedy: str
) -> None:
    found = findings(tmp_path, NOISY)[name]
    assert found.state == "noise"
    assert seen in found.seen
    assert remedy in found.remedy


def test_features_that_are_missing_are_told_with_what_they_would_give(tmp_path: Path) -> None:
    found = findings(tmp_path, NOISY)
    missing = {name for name, one in found.items() if one.state == "missing"}
    assert missing == {"VNNI", "BF16", "AMX", "energy counter"}
    assert "int8" in found["VNNI"].remedy
    assert found["AVX-512"].state == "ok"


def test_a_quiet_machine_has_neither_noise_nor_anything_missing(tmp_path: Path) -> None:
    found = findings(tmp_path, QUIET)
    assert {one.state for one in found.values()} == {"ok"}
    assert all(one.remedy == "" for one in found.values())


def test_arm_has_features_of_its_own(tmp_path: Path) -> None:
    found = findings(tmp_path, {"proc/cpuinfo": "Features\t: asimd asimddp sve"})
    assert (found["SVE"].state, found["dot product"].state, found["I8MM"].state) == ("ok", "ok", "missing")
    assert "VNNI" not in found


def test_a_system_that_tells_nothing_is_unknown_and_no_failure(tmp_path: Path) -> None:
    found = findings(tmp_path, {})
    assert {one.state for one in found.values()} <= {"unknown", "missing", "ok"}
    assert found["steal time"].state == "unknown"
    assert examine(tmp_path, cores=[]).core is None


def test_the_doctor_looks_at_this_machine_and_leaves_with_0(tmp_path: Path) -> None:
    document = json.loads(rbserve("doctor", "--json", home=tmp_path).stdout)
    states = {one["name"]: one["state"] for one in document["findings"]}
    assert set(states.values()) <= {"ok", "noise", "missing", "unknown"}
    assert {"load average", "swap", "energy counter"} <= states.keys()
    if hasattr(os, "sched_getaffinity"):
        assert document["core"] == max(os.sched_getaffinity(0))
    done = rbserve("doctor", home=tmp_path)
    assert "load average" in done.stdout
    assert "python" in done.stderr
    assert list(tmp_path.iterdir()) == []
