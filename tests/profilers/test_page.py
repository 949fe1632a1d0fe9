"""The page of a report in a real browser: what a reader sees, points at and types. Skipped where there is none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from artificial import profiles, ranking, sampled
from browser import needs_browser

from rbserve.profilers.report.render import render

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

TAUGHT = "gdcn-emb-from-text-smollm2-135m"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}

pytestmark = needs_browser


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every kind of point: changed, of some users, of random weights, on two data sets, ranking."""
    changed = sampled("gdcn", {"onnx-fp32": 2.0}, skill=1.5, id="changed", config={"dim": 8})
    elsewhere = {
        "dataset": "microlens", "dataset_fingerprint": "m", "baselines": {"popularity": {"auc": 0.99}},
        "baseline_forms": {"popularity": "last likes"},
    }  # fmt: skip
    taught = sampled(TAUGHT, {"onnx-int8": 0.4}, skill=2.5, id="taught", **elsewhere)
    blind = sampled("dcn", {"onnx-fp32": 20.0}, group="D", item_form="text")
    none = [msgspec.structs.replace(one, accuracy={}) for one in blind.results]
    some = sampled("pnn", {"onnx-fp32": 5.0}, skill=0.8, users=20)
    runs = [
        sampled("dnn", {"torch-fp32": 4.0, "onnx-fp32": 1.0, "onnx-int8": 0.5}),
        sampled("gdcn", {"onnx-fp32": 3.0}, skill=2.0),
        changed,
        taught,
        msgspec.structs.replace(blind, results=none, random=True),
        msgspec.structs.replace(some, plan=msgspec.structs.replace(some.plan, test_users=20)),
        sampled("dnn", {"onnx-fp32": 1.0}, id="other", **elsewhere),
        ranking("sasrec-3l", 0.05),
    ]
    return render(runs, tmp_path_factory.mktemp("reports") / "kinds") / "report.html"


def opened(browser: Browser, file: Path, size: dict[str, int], **options: Any) -> tuple[Page, list[str]]:
    """The page at a size, and what goes wrong on it."""
    page = browser.new_page(viewport=size, **options)
    wrong: list[str] = []
    page.on(
        "console",
        lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None,
    )
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith("file:") else wrong.append(request.url))
    page.goto(file.as_uri())
    return page, wrong


@pytest.fixture
def desktop(browser: Browser, page_file: Path) -> Iterator[Page]:
    page, wrong = opened(browser, page_file, DESKTOP)
    yield page
    page.close()
    assert wrong == []


def part(page: Page, title: str) -> Any:
    """The section whose head begins so."""
    return page.locator(".part", has=page.locator("h2", has_text=re.compile(f"^{re.escape(title)}"))).first


@pytest.mark.parametrize(
    ("size", "scheme"), [(DESKTOP, "light"), (DESKTOP, "dark"), (PHONE, "light"), (PHONE, "dark")]
)
def test_the_page_opens_without_an_error_and_never_scrolls_sideways(
    browser: Browser, page_file: Path, size: dict[str, int], scheme: str
) -> None:
    page, wrong = opened(browser, page_file, size, color_scheme=scheme)
    assert page.locator(".chart svg").count() == page.locator(".part").count() == 4
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    assert wrong == []
    page.close()


def test_hovering_a_point_shows_its_figures_and_marks_its_row(desktop: Page) -> None:
    own = part(desktop, "ml-100k · ctr")
    own.locator(".point.front .mark").first.hover()
    tip = own.locator(".tip").inner_text()
    assert "dnn onnx-int8" in tip
    assert re.search(r"runs\s+700\s+processes\s+5", tip)
    assert "P(front)" in tip
    assert own.locator("tr.active").get_attribute("data-point") == "dnn/onnx-int8/100"


def test_filters_hide_points_and_rows_alike(desktop: Page) -> None:
    own = part(desktop, "ml-100k · ctr")
    marks, rows = own.locator(".point"), own.locator("tbody tr:visible")
    assert (marks.count(), rows.count()) == (7, 7)
    own.locator("label", has_text=re.compile("^int8$")).click()
    assert (marks.count(), rows.count()) == (6, 6)
    own.locator("label", has_text=re.compile("^torch$")).click()
    assert (marks.count(), rows.count()) == (5, 5)
    own.locator("label", has_text=re.compile("^D$")).click()
    assert (marks.count(), rows.count()) == (4, 4)


def test_a_filter_hides_names_with_their_points_and_moves_nothing(desktop: Page) -> None:
    own = part(desktop, "ml-100k · ctr")
    places = """(svg) => Object.fromEntries([...svg.querySelectorAll('.label, .grid, .step')].map(
        (mark, n) => [mark.textContent || n, JSON.stringify(mark.getBBox())]))"""
    before = own.locator(".chart svg").evaluate(places)
    own.locator("label", has_text=re.compile("^D$")).click()
    after = own.locator(".chart svg").evaluate(places)
    assert "dcn" in before
    assert "dcn" not in after
    assert set(after.items()) < set(before.items())


def test_the_page_draws_what_was_laid_out_and_the_size_that_fits(browser: Browser, page_file: Path) -> None:
    for width, size in ((1280, "wide"), (820, "column"), (390, "narrow")):
        page, wrong = opened(browser, page_file, {"width": width, "height": 900})
        svg = page.locator(".chart svg").first
        layout = page.evaluate(f"report.charts['section-1'][report.sections[0].slates[0]].plain.{size}")
        assert svg.get_attribute("viewBox") == f"0 0 {layout['width']:g} {layout['height']:g}"
        names = svg.locator(".label").all_text_contents()
        assert {"".join(lines) for _, _, lines, *_ in layout["names"]} <= {*names}
        assert wrong == []
        page.close()


def test_the_latency_target_dims_what_misses_it_and_names_the_most_accurate_that_meets_it(
    desktop: Page,
) -> None:
    own = part(desktop, "ml-100k · ctr")
    slider = own.locator("input[type=range]")
    assert slider.get_attribute("aria-valuetext") == "none"
    slider.focus()
    for _ in range(6):
        desktop.keyboard.press("PageDown")
    verdict = own.locator(".verdict").inner_text()
    assert re.match(r"Most accurate within it, of \d models: .*, AUC 0\.\d{4}, p50 ", verdict)
    assert "rbserve recommend --slo 'p50<" in verdict
    assert own.locator(".limit").count() == 2  # one in the plot, one in the strip of what was only timed
    late = own.locator(".point.late")
    assert 0 < late.count() < 7
    assert own.locator("tbody tr.late").count() == late.count()
    own.locator("select").select_option("p99_ms")
    assert "p99 ≤" in own.locator("output").inner_text()


def test_a_pick_that_is_no_better_than_a_baseline_is_marked_wherever_it_is_named(desktop: Page) -> None:
    row = desktop.locator("#summary tr", has_text="microlens")
    assert row.get_attribute("class") == "doubtful"
    assert "popularity (last likes) 0.9900" in row.inner_text()
    own = part(desktop, "microlens · ctr")
    own.locator("input[type=range]").focus()
    desktop.keyboard.press("PageDown")
    said = own.locator(".verdict").inner_text()
    assert "No better than the baseline popularity (last likes), 0.9900." in said
    margin = own.locator(".chart tspan").all_text_contents()
    assert {"(last likes)", "0.9900"} <= {*margin}


def test_the_papers_points_are_a_layer(desktop: Page) -> None:
    own = part(desktop, "microlens · ctr")
    assert own.locator(".printed-mark").count() == 0
    own.locator("label", has_text="these models").click()
    assert own.locator(".printed-mark").count() == 1
    own.locator("label", has_text="every row").click()
    assert own.locator(".printed-mark").count() > 20
    own.locator("label", has_text=re.compile("^off$")).click()
    assert own.locator(".printed-mark").count() == 0


def test_what_was_not_judged_like_the_others_looks_different_and_says_so(desktop: Page) -> None:
    own = part(desktop, "ml-100k · ctr")
    assert own.locator(".point.aside").get_attribute("aria-label").startswith(" pnn onnx-fp32")
    assert "judged on 20 test users drawn at random" in own.locator(".point.aside").get_attribute(
        "aria-label"
    )
    assert "AUC not measured" in own.locator(".point.unjudged").get_attribute("aria-label")
    names = own.locator(".chart .label").all_inner_texts()
    assert any("dim=8" in name for name in own.locator(".chart .label").all_text_contents()), names


def test_a_long_name_is_whole_on_several_lines(desktop: Page) -> None:
    own = part(desktop, "microlens · ctr")
    (name,) = [one for one in own.locator(".chart .label").all() if "smollm2" in (one.text_content() or "")]
    assert name.text_content() == TAUGHT
    lines = name.locator("tspan").all_text_contents()
    assert len(lines) == 2
    assert max(map(len, lines)) <= 26
    first, second = (one.bounding_box() for one in name.locator("tspan").all())
    assert first
    assert second
    assert first["y"] < second["y"]


def test_the_keyboard_reaches_points_and_their_commands(desktop: Page) -> None:
    own = part(desktop, "ml-100k · ctr")
    assert own.locator('.point[tabindex="0"]').count() == 1
    own.locator('.point[tabindex="0"]').focus()
    first = desktop.evaluate("document.activeElement.getAttribute('aria-label')")
    desktop.keyboard.press("ArrowRight")
    assert desktop.evaluate("document.activeElement.getAttribute('aria-label')") != first
    desktop.keyboard.press("Enter")
    facts = desktop.locator("dialog[open]")
    assert "rbserve profile --model" in facts.inner_text()
    assert "comparability key" in facts.inner_text()
    desktop.keyboard.press("Escape")
    assert desktop.locator("dialog[open]").count() == 0


def test_a_cell_of_the_papers_tables_shows_where_its_figure_comes_from(desktop: Page) -> None:
    cell = desktop.locator("#paper tr", has_text="DNN").locator("button", has_text="paper 0.7421").first
    cell.click()
    facts = desktop.locator("dialog[open]").inner_text()
    for said in (
        "dnn on microlens",
        "480 test rows of 60 users",
        "comparability key",
        "rbserve profile --model dnn",
    ):
        assert said in facts
    desktop.locator("dialog .shut").click()
    rows = desktop.locator("#paper tbody tr:visible").count()
    desktop.locator("#paper label", has_text="not measured").first.click()
    assert desktop.locator("#paper tbody tr:visible").count() > rows


def test_a_table_is_sorted_by_its_heads(desktop: Page) -> None:
    own = part(desktop, "ml-100k · ctr")
    own.locator("thead button", has_text="p50 ms").click()
    texts = own.locator("tbody tr td:nth-child(6)").all_inner_texts()
    values = [float(text.split()[0]) for text in texts]
    assert values == sorted(values)
    assert own.locator("th[aria-sort=ascending]").count() == 1


def test_colours_can_be_chosen(desktop: Page) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    assert desktop.evaluate(background) == "rgb(255, 255, 255)"
    desktop.locator("#theme label", has_text="dark").click()
    assert desktop.evaluate(background) == "rgb(18, 22, 28)"
    desktop.emulate_media(media="print")
    assert desktop.evaluate(background) == "rgb(255, 255, 255)"
    assert not desktop.locator("#theme").is_visible()


def test_everything_that_can_be_used_has_a_name(desktop: Page) -> None:
    unnamed = desktop.evaluate(
        """[...document.querySelectorAll('button, input, select, [role=button], [role=region]')].filter((one) =>
             !(one.getAttribute('aria-label') || one.textContent.trim() || (one.labels && one.labels.length))
           ).map((one) => one.outerHTML.slice(0, 90))"""
    )
    assert unnamed == []


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_names_in_the_chart_cover_neither_each_other_nor_a_mark(
    browser: Browser, tmp_path: Path, size: dict[str, int]
) -> None:
    page, wrong = opened(browser, render(profiles(), tmp_path / "nine") / "report.html", size)
    overlaps = page.evaluate(
        """() => {
          const box = (one) => one.getBoundingClientRect();
          const names = [...document.querySelectorAll('.chart .label')].map(box);
          const marks = [...document.querySelectorAll('.chart .mark')].map(box);
          const meets = (a, b) => a.left < b.right && b.left < a.right && a.top + 3 < b.bottom && b.top < a.bottom - 3;
          const covered = names.flatMap((a, i) => [...names.slice(i + 1), ...marks].filter((b) => meets(a, b)));
          return [names.length, covered.length];
        }"""
    )
    assert overlaps[0] >= 3
    assert overlaps[1] == 0
    assert wrong == []
    page.close()
