"""The page at / in a real browser. Skipped where there is none."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from adopted_models import adopt_ranker
from browser import needs_browser
from field_dataset import train_with_fields, with_fields
from test_client import listening
from test_rerank import SharedWords

from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset
from rbserve.exporters.export import export
from rbserve.server.api.schema import Measured, Profiled
from rbserve.server.observe.telemetry import Telemetry
from rbserve.server.scoring.reload import open_service
from rbserve.server.scoring.service import Service

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = needs_browser


@pytest.fixture
def services(artifact: Artifact, listwise: Artifact) -> list[Service[Any, Any]]:
    telemetry = Telemetry()
    opened = [open_service(one, "onnx-fp32", 1, 0, telemetry) for one in (artifact, listwise)]
    opened[0].profiled = Profiled([
        Measured("forward", 100, 1, 0.1234, None, "auc", 0.71234, "a-run"),
        Measured("end_to_end", 100, 1, 0.2, None, "auc", 0.71234, "a-run", ["waited for the core"]),
    ])  # fmt: skip
    return opened


@contextlib.contextmanager
def shown(browser: Browser, url: str, **options: Any) -> Iterator[tuple[Page, list[str]]]:
    page = browser.new_page(**options)
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(url)
    page.wait_for_selector("text=ready")
    yield page, wrong
    page.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_what_is_served_is_shown_and_can_be_tried(
    browser: Browser, services: list[Service[Any, Any]], width: int
) -> None:
    with (
        listening(*services) as url,
        shown(browser, url, viewport={"width": width, "height": 900}) as (page, wrong),
    ):
        page.wait_for_selector("#models tr:nth-child(2)")
        assert page.inner_text("#state") == "ready"
        toy, rank = page.locator("#models tr").all_inner_texts()
        assert all(
            said in toy for said in ("toy", "onnx-fp32", "AUC 0.7123", "forward, slate 100: p50 0.123 ms")
        )
        assert "end_to_end, slate 100: p50 0.200 ms; INCONCLUSIVE: waited for the core" in toy
        assert "not profiled" in rank
        page.click("button")  # as it stands, with ids of the model's
        page.wait_for_selector("#answer table")
        assert page.locator("#answer td").all_inner_texts()[::2] == ["i2", "i3", "i4"]
        page.fill("#history", "i1, i2")
        page.fill("#candidates", "i3, i4")
        page.click("button")
        page.locator("#answer td", has_text="i2").wait_for(state="detached")
        assert page.locator("#answer td").all_inner_texts()[::2] == ["i3", "i4"]
        assert '/v1/score -H \'Content-Type: application/json\' -d \'{"model":"toy"' in page.inner_text(
            "#answer pre"
        )
        page.select_option("#model", "rank")
        assert page.is_hidden("#candidates-field")
        page.fill("#k", "3")
        page.click("button")
        page.locator("#answer td").nth(5).wait_for()
        assert page.locator("#answer td").count() == 6
        assert wrong == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"


def test_an_adopted_model_is_tried_by_its_features(
    browser: Browser, services: list[Service[Any, Any]], tmp_path: Path
) -> None:
    ranker, _ = adopt_ranker(tmp_path)
    services.append(open_service(ranker, "onnx-fp32", 1, 0, services[0].telemetry))
    with listening(*services) as url, shown(browser, url) as (page, wrong):
        page.wait_for_selector("#models tr:nth-child(3)")
        assert page.is_hidden("#features")
        page.select_option("#model", "ranker")
        assert [page.is_hidden(f"#{field}") for field in ("history", "candidates", "k", "features")] == [
            True, True, True, False,
        ]  # fmt: skip
        page.click("button")
        page.wait_for_selector("#answer table")
        assert page.locator("#answer td").all_inner_texts()[::2] == ["0", "1"]
        page.fill("#features", "{")
        page.click("button")
        page.locator("#answer .error", has_text="the features are no JSON").wait_for()
        page.fill("#features", '{"age": 1}')
        page.click("button")
        page.locator("#answer .error", has_text="feature likes is missing").wait_for()
        page.select_option("#model", "toy")
        assert page.is_visible("#history")
    assert [line for line in wrong if "422" not in line] == []


FIELDS = ("history", "candidates", "k", "features", "query", "documents", "top")


def visible(page: Page) -> list[str]:
    """The fields of the form that are shown."""
    return [field for field in FIELDS if page.is_visible(f"#{field}")]


@pytest.mark.parametrize("width", [1280, 390])
def test_documents_are_ordered_by_a_model_that_reads_texts(
    browser: Browser, services: list[Service[Any, Any]], width: int
) -> None:
    services[0].work.texts = SharedWords()
    with (
        listening(*services) as url,
        shown(browser, url, viewport={"width": width, "height": 900}) as (page, wrong),
    ):
        page.wait_for_selector("#models tr:nth-child(2)")
        assert visible(page) == ["history", "candidates"]
        page.select_option("#way", "order")
        assert visible(page) == ["query", "documents", "top"]
        page.fill("#query", "hot noodle soup")
        page.fill("#documents", "a cat\n\n  hot <b>soup</b> \nhot noodle soup\nit's hot\n")
        page.click("button")
        page.wait_for_selector("#answer table")
        assert page.locator("#answer th").all_inner_texts() == ["document", "score"]
        assert page.locator("#answer td").all_inner_texts() == [
            "hot noodle soup", "1.0000", "hot <b>soup</b>", "0.3333", "it's hot", "0.3333", "a cat", "0.0000",
        ]  # fmt: skip
        page.fill("#top", "1")
        page.click("button")
        page.locator("#answer td", has_text="a cat").wait_for(state="detached")
        assert page.locator("#answer td").count() == 2
        command = page.inner_text("#answer pre")
        assert "/v1/rerank -H" in command
        assert shlex.split(command)[-1].endswith('"it\'s hot"],"top_n":1}')
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
        page.select_option("#model", "rank")
        assert page.is_hidden("#way")
        assert visible(page) == ["history", "k"]
        page.select_option("#model", "toy")
        assert visible(page) == ["history", "candidates"]
        assert wrong == []


def test_what_is_wrong_with_documents_is_told(browser: Browser, services: list[Service[Any, Any]]) -> None:
    services[0].work.texts = SharedWords()
    with listening(*services) as url, shown(browser, url) as (page, _):
        page.wait_for_selector("#models tr")
        page.select_option("#way", "order")
        for field, text, message in (
            ("top", "0", "top_n"),
            ("query", " ", "query has a blank text"),
            ("documents", "", "documents is empty"),
        ):
            page.fill(f"#{field}", text)
            page.click("button")
            page.locator("#answer .error", has_text=message).wait_for()
            page.fill("#top", "")
            page.fill("#query", "hot")


def test_an_adopted_reranker_is_tried_by_a_query_first(
    browser: Browser, services: list[Service[Any, Any]], reranker: Service[Any, Any]
) -> None:
    with listening(services[0], reranker) as url, shown(browser, url) as (page, wrong):
        page.wait_for_selector("#models tr:nth-child(2)")
        page.select_option("#model", "small-ce")
        assert visible(page) == ["query", "documents", "top"]
        page.click("button")  # as it stands
        page.wait_for_selector("#answer table")
        assert {*page.locator("#answer td").all_inner_texts()[::2]} == {"cold noodles", "a cat"}
        page.select_option("#way", "score")
        assert visible(page) == ["features"]
        page.click("button")
        page.locator("#answer th", has_text="item").wait_for()
        assert wrong == []


def test_what_is_wrong_is_told_and_text_stays_text(
    browser: Browser, services: list[Service[Any, Any]]
) -> None:
    with listening(*services) as url, shown(browser, url) as (page, _):
        page.wait_for_selector("#models tr")
        page.fill("#candidates", "<b>nobody</b>")
        page.click("button")
        page.wait_for_selector("#answer .error")
        assert "<b>nobody</b>" in page.inner_text("#answer .error")
        page.fill("#candidates", '"a film"')
        page.click("button")
        page.locator(".error", has_text="reads no texts of items").wait_for()


def test_without_javascript_it_says_where_all_of_it_is(
    browser: Browser, services: list[Service[Any, Any]]
) -> None:
    with listening(*services) as url:
        page = browser.new_page(java_script_enabled=False)
        page.goto(url)
        assert page.is_hidden("#form")
        assert "v1/models lists what is served" in page.inner_text("noscript")
        assert page.locator("#state a").get_attribute("href") == "v1/health/ready"
        page.close()


def test_the_list_of_models_has_ids_and_says_why_nothing_is_measured(
    services: list[Service[Any, Any]],
) -> None:
    with listening(*services) as url:
        toy, rank = httpx.get(f"{url}/v1/models").json()["models"]
    assert toy["examples"] == ["i0", "i1", "i2", "i3", "i4"]
    assert (toy["measured_note"], rank["measured_note"]) == (None, "not profiled")
    assert toy["measured"][1]["inconclusive"] == ["waited for the core"]


def test_fields_of_a_request_can_be_tried(browser: Browser, planted: Dataset, tmp_path: Path) -> None:
    dataset = with_fields(planted, tmp_path / "withfields")
    trained = train_with_fields("dnn", dataset, tmp_path / "dnn", "own", epochs=1)
    model = export(trained, dataset, precisions=["fp32"])
    with listening(open_service(model, "onnx-fp32", 1)) as url, shown(browser, url) as (page, wrong):
        page.wait_for_selector("#fields-field", state="visible")
        assert '"country":null' in page.input_value("#fields")
        page.click("button")
        before = page.locator("#answer table").inner_text()
        page.fill("#fields", '{"context": {"hour": 9}}')
        page.click("button")
        page.wait_for_function(
            "text => document.querySelector('#answer table').innerText !== text", arg=before
        )
        assert '"context":{"hour":9}' in page.inner_text("#answer pre")
        page.fill("#fields", "{")
        page.click("button")
        page.locator("#answer .error", has_text="the fields are no JSON").wait_for()
        assert not wrong
