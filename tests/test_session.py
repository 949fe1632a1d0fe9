"""Sessions of exported graphs: 8-bit products are exact on every processor, and no slower than they need be."""

from __future__ import annotations

from pathlib import Path

import pytest

from rbserve import session
from rbserve.core.artifact import Artifact


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", ["avx2", "avx512f"], True),
        ("x86_64", [], True),  # not told: the exact kernel
        ("x86_64", ["avx2", "avx_vnni"], False),
        ("AMD64", ["avx512_vnni"], False),
        ("aarch64", ["asimd"], False),
    ],
)
def test_only_x86_without_vnni_saturates(machine: str, flags: list[str], expected: bool) -> None:
    assert session.saturates(machine, flags) is expected


@pytest.mark.parametrize("vnni", [True, False])
def test_the_exact_kernel_is_asked_for_where_the_usual_one_is_not_exact(
    vnni: bool, trained: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is exact, the other one would cost two and a half times as much."""
    flags = {"avx512_vnni"} if vnni else {"avx2"}
    monkeypatch.setattr(session, "processor", lambda: ("Invented 4000", flags))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    graph: Path = trained.file("onnx/int8.onnx")
    asked = [_asks_for_the_exact_kernel(graph, eight_bits) for eight_bits in (False, True)]
    assert asked == [False, not vnni]


def _asks_for_the_exact_kernel(graph: Path, eight_bits: bool) -> bool:
    options = session.open_session(graph, 1, eight_bits).get_session_options()
    try:
        return bool(options.get_session_config_entry("session.x64quantprecision") == "1")
    except RuntimeError:  # there is no such entry
        return False
