"""A gate's results for people and for CI: cells of a table, Markdown for a pull request, JUnit XML."""

from __future__ import annotations

from collections import Counter
from xml.etree import ElementTree

from rbserve.profilers.gate.sides import is_accuracy
from rbserve.profilers.gate.verdict import Line, Suite, Verdict

COLUMNS = ("verdict", "model", "figure", "metric", "base", "head", "change [bounds]", "tolerated")
_SIGNS = {
    Verdict.PASS: "✅",
    Verdict.REGRESSED: "❌",
    Verdict.INCONCLUSIVE: "❔",
    Verdict.MISSING: "⛔",
    Verdict.NOT_COMPARABLE: "⚠️",
}


def headline(suite: Suite) -> str:
    """One sentence: "REGRESSED: 1 of 8 metrics is worse than tolerated; 14 rounds in 23 s"."""
    counts = Counter(line.verdict for line in suite.lines)
    summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items()) or "nothing was measured"
    effort = f"; {suite.rounds} rounds in {suite.seconds:.0f} s" if suite.rounds else ""
    return f"{suite.verdict}: {summary}{effort}"


def cells(line: Line) -> list[str]:
    """A row of the table, in the order of COLUMNS."""
    return [
        line.verdict.value,
        line.model,
        line.name or "–",
        line.metric,
        _figure(line.metric, line.base),
        _figure(line.metric, line.head),
        f"{_change(line.metric, line.change)} [{_change(line.metric, line.low)}, {_change(line.metric, line.high)}]"
        if line.change is not None
        else "–",
        _tolerance(line.metric, line.tolerance),
    ]


def markdown(suite: Suite) -> str:
    """A comment for a pull request: the verdict, what did not pass, and the rest folded away."""
    passed = [line for line in suite.lines if line.verdict is Verdict.PASS]
    open_ = [line for line in suite.lines if line.verdict is not Verdict.PASS]
    parts = [f"## {_SIGNS[suite.verdict]} rbserve check: {headline(suite)}", ""]
    if open_:
        parts += [*_table(open_), ""]
        parts += [f"- {line.model} {line.name} {line.metric}: {line.reason}" for line in open_ if line.reason]
        parts.append("")
    if passed:
        parts += [
            f"<details><summary>{len(passed)} passed</summary>",
            "",
            *_table(passed),
            "",
            "</details>",
            "",
        ]
    parts += [f"Note: {note}.\n" for note in suite.notes]
    parts.append(_small_print(suite))
    return "\n".join(parts) + "\n"


def _table(lines: list[Line]) -> list[str]:
    rows = [[_SIGNS[line.verdict] + " " + cells(line)[0], *map(_escaped, cells(line)[1:])] for line in lines]
    head = ["| " + " | ".join(COLUMNS) + " |", "|---|---|---|---|--:|--:|--:|--:|"]
    return head + ["| " + " | ".join(row) + " |" for row in rows]


def _small_print(suite: Suite) -> str:
    config, machine = suite.config, suite.environment
    where = (
        f" on {machine.cpu}, {config.threads} thread(s)"
        if machine
        else f", while single processes differ by no more than {config.process_cv:.1%} (process_cv)"
    )
    return (
        f"Positive changes are for the worse. REGRESSED where the lower bound lies above what is tolerated, PASS where "
        f"the upper bound does not; a suite without a change beyond tolerance is REGRESSED with a chance of at most "
        f"{config.alpha:.1%}{where}."
    )


def junit(suite: Suite) -> bytes:
    """JUnit XML: REGRESSED is a failure, MISSING an error, INCONCLUSIVE and NOT-COMPARABLE are skipped."""
    verdicts = Counter(line.verdict for line in suite.lines)
    lines = suite.lines or [Line("rbserve", "all", Verdict.MISSING, reason="nothing was measured")]
    counts = {
        "tests": len(lines),
        "failures": verdicts[Verdict.REGRESSED],
        "errors": verdicts[Verdict.MISSING] + (not suite.lines),
        "skipped": verdicts[Verdict.INCONCLUSIVE] + verdicts[Verdict.NOT_COMPARABLE],
    }
    attributes = {key: str(value) for key, value in counts.items()} | {"time": f"{suite.seconds:.3f}"}
    root = ElementTree.Element("testsuites", attributes)
    group = ElementTree.SubElement(
        root, "testsuite", {"name": "rbserve check", "timestamp": suite.created} | attributes
    )
    for line in lines:
        case = ElementTree.SubElement(
            group,
            "testcase",
            {"classname": f"rbserve.{line.model}", "name": f"{line.name} {line.metric}".strip()},
        )
        tag = _ELEMENTS.get(line.verdict)
        if tag:
            ElementTree.SubElement(case, tag, {"message": sentence(line), "type": line.verdict.value})
    ElementTree.indent(root)
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


_ELEMENTS = {
    Verdict.REGRESSED: "failure",
    Verdict.MISSING: "error",
    Verdict.INCONCLUSIVE: "skipped",
    Verdict.NOT_COMPARABLE: "skipped",
}


def sentence(line: Line) -> str:
    """The line in words."""
    _, model, name, metric, base, head, change, tolerated = cells(line)
    figures = f": {base} -> {head}, {change}, tolerated {tolerated}" if line.change is not None else ""
    reason = f" ({line.reason})" if line.reason else ""
    return f"{line.verdict} {model} {name} {metric}{figures}{reason}"


def _figure(metric: str, value: float | None) -> str:
    if value is None:
        return "–"
    if is_accuracy(metric):
        return f"{value:.4f}"
    unit = "ms" if metric == "p50" else "MB"
    return f"{value:.4g} {unit}" if value < 1000 else f"{value:,.0f} {unit}"


def _change(metric: str, value: float | None) -> str:
    """A share for the worse in percent; an accuracy's loss as it is."""
    if value is None:
        return "?"
    return f"{value:+.4f}" if is_accuracy(metric) else f"{value:+.1%}"


def _tolerance(metric: str, value: float | None) -> str:
    if value is None:
        return "–"
    return (
        f"{value:g}"
        if is_accuracy(metric)
        else f"{value:.3g}"
        if value >= 10
        else f"{round(100 * value, 4):g}%"
    )


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
