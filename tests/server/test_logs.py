"""Request ids and the JSON lines: what they say, and that users' items are in none unless they were asked for."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from typing import Any

import httpx
import pytest

from rbserve.core.requests import Request
from rbserve.core.types import Scores
from rbserve.server.api.options import Limits
from rbserve.server.observe.logs import JsonFormatter, Log, request_id
from rbserve.server.routes.app import build_app
from rbserve.server.scoring.models import Models
from rbserve.server.scoring.service import Service
from rbserve.server.scoring.work import Scoring, SlateQuery

BODY = {"history": ["i1"], "candidates": ["i2", "i3"]}


class Broken:
    """A model that fails."""

    def score(self, request: Request) -> Scores:
        del request
        raise ZeroDivisionError("of the model")


def lines(
    service: Service[SlateQuery, Scores],
    capfdbinary: pytest.CaptureFixture[bytes],
    log: Log | None,
    *requests: tuple[str, str, dict[str, Any]],
) -> list[dict[str, Any]]:
    app = build_app(Models([service]), Limits(), log=log)

    async def everything() -> None:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            for method, path, options in requests:
                await http.request(method, path, **options)

    asyncio.run(everything())
    return [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]


def test_a_line_says_what_was_asked_of_which_model_and_how_it_went(
    service: Service[SlateQuery, Scores], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    scored, health, refused = lines(
        service, capfdbinary, Log(items=False),
        ("POST", "/v1/score", {"json": [BODY, BODY], "headers": {"x-request-id": "from.the-proxy:7"}}),
        ("GET", "/v1/health/live", {}),
        ("POST", "/v1/score", {"json": {"history": ["i1"], "candidates": ["secret"]}}),
    )  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", scored.pop("time"))
    assert scored.pop("ms") > 0
    assert scored == {
        "level": "info", "request_id": "from.the-proxy:7", "method": "POST", "route": "/v1/score", "status": 200,
        "model": "toy", "variant": "onnx-fp32", "size": 4, "users": 2,
    }  # fmt: skip
    assert (health["route"], health["status"], "model" in health) == ("/v1/health/live", 200, False)
    assert (refused["status"], refused["error"]) == (422, "unknown_items")
    assert "secret" not in json.dumps(refused)
    assert "i1" not in json.dumps([scored, refused])


def test_items_are_in_it_where_that_was_asked_for(
    service: Service[SlateQuery, Scores], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    (line,) = lines(service, capfdbinary, Log(items=True), ("POST", "/v1/score", {"json": BODY}))
    assert line["items"] == [BODY]


def test_nothing_is_written_without_a_log(
    service: Service[SlateQuery, Scores], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert lines(service, capfdbinary, None, ("POST", "/v1/score", {"json": BODY})) == []


def test_a_failure_has_its_traceback_and_the_id_that_the_client_got(
    service: Service[SlateQuery, Scores], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    service.work = Scoring(Broken(), service.items)
    headers = {"x-request-id": "seven"}
    (line,) = lines(
        service, capfdbinary, Log(items=False), ("POST", "/v1/score", {"json": BODY, "headers": headers})
    )
    assert (line["level"], line["status"], line["request_id"]) == ("error", 500, "seven")
    assert line["traceback"].endswith("ZeroDivisionError: of the model\n")


def test_every_answer_has_an_id(service: Service[SlateQuery, Scores]) -> None:
    service.work = Scoring(Broken(), service.items)
    app = build_app(Models([service]), Limits())

    async def ids() -> list[str]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            asked = [("GET", "/v1/models"), ("GET", "/nowhere"), ("POST", "/v1/score"), ("GET", "/v2")] * 2
            found = [await http.request(*one) for one in asked]
            found.append(await http.post("/v1/score", json=BODY))
            assert found[-1].status_code == 500
            return [one.headers["x-request-id"] for one in found]

    found = asyncio.run(ids())
    assert len({*found}) == 9
    assert all(re.fullmatch("[0-9a-f]{16}", one) for one in found)


@pytest.mark.parametrize(
    ("sent", "taken"),
    [(b"abc-1.2:x_Y", True), (b"", False), (b"a b", False), (b"x" * 65, False), (b"\xff", False), (b'"}', False)],
)  # fmt: skip
def test_an_id_of_the_client_is_taken_where_it_can_stand_in_a_log(sent: bytes, taken: bool) -> None:
    found = request_id([(b"host", b"x"), (b"x-request-id", sent)])
    assert (found == sent.decode("latin-1")) == taken
    assert found


def test_what_libraries_log_is_a_line_as_well() -> None:
    record = logging.LogRecord("uvicorn.error", logging.WARNING, "", 0, "odd %s", ("thing",), None)
    line = json.loads(JsonFormatter().format(record))
    assert (line["level"], line["logger"], line["message"]) == ("warning", "uvicorn.error", "odd thing")
    assert line["time"].endswith("Z")
