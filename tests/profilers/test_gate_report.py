"""What a gate writes for people and for CI."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from rbserve.profilers.gate.config import GateConfig
from rbserve.profilers.gate.findings import headline, junit, markdown, sentence
from rbserve.profilers.gate.verdict import Line, Verdict, suite_of

LINES = [
    Line("dnn", "p50", Verdict.PASS, "onnx-fp32", "forward", 1, 0.1, 0.1, 0.0, -0.01, 0.012, 0.02, 8),
    Line("dnn", "p50", Verdict.REGRESSED, "onnx-fp32", "forward", 100, 2.0, 2.2, 0.1, 0.05, 0.15, 0.02, 8),
    Line("dnn", "auc", Verdict.INCONCLUSIVE, "onnx-int8", None, None, 0.7, 0.699, 0.001, -0.001, 0.003, 0.0005, 1,
         "151 test users are too few"),
    Line("a|b", "all", Verdict.MISSING, reason="there is <none>"),
    Line("gdcn", "p50", Verdict.NOT_COMPARABLE, "onnx-fp32", "forward", 1, 1.0, 9.0, 8.0, None, None, 0.1, 6),
]  # fmt: skip
SUITE = suite_of(LINES, GateConfig(), None, rounds=8, seconds=12.3)


def test_the_headline_counts_verdicts_worst_first() -> None:
    assert headline(SUITE) == (
        "REGRESSED: 1 REGRESSED, 1 MISSING, 1 NOT-COMPARABLE, 1 INCONCLUSIVE, 1 PASS; 8 rounds in 12 s"
    )
    assert headline(suite_of([], GateConfig(), None)) == "MISSING: nothing was measured"


def test_markdown_shows_what_did_not_pass_and_folds_the_rest() -> None:
    text = markdown(SUITE)
    assert text.startswith("## ❌ rbserve check: REGRESSED")
    shown, _, folded = text.partition("<details>")
    assert (
        "| ❌ REGRESSED | dnn | onnx-fp32 forward slate 100 | p50 | 2 ms | 2.2 ms | +10.0% [+5.0%, +15.0%] | 2% |"
        in shown
    )
    assert "+0.0010 [-0.0010, +0.0030] | 0.0005 |" in shown
    assert "a\\|b" in shown
    assert "✅ PASS" not in shown
    assert "✅ PASS" in folded
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1


@pytest.mark.parametrize("lines", [LINES, []])
def test_junit_counts_are_those_of_its_cases(lines: list[Line]) -> None:
    root = ElementTree.fromstring(junit(suite_of(lines, GateConfig(), None)))
    cases = root.findall("testsuite/testcase")
    for tag, count in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        assert len(root.findall(f".//{tag}")) == int(root.attrib[count])
    assert len(cases) == int(root.attrib["tests"])
    assert root.find(".//error") is not None
    if lines:
        failure = root.find(".//failure")
        assert failure is not None
        assert "2 ms -> 2.2 ms, +10.0% [+5.0%, +15.0%], tolerated 2%" in failure.attrib["message"]


def test_a_sentence_has_the_reason() -> None:
    assert sentence(LINES[2]).endswith("tolerated 0.0005 (151 test users are too few)")
