"""Compressed bodies, and pages of other origins."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import pytest

from rbserve.core.errors import UsageError
from rbserve.core.types import Scores
from rbserve.server.api.options import Limits
from rbserve.server.http.cors import check_origins
from rbserve.server.http.keys import read_keys
from rbserve.server.routes.app import build_app
from rbserve.server.scoring.models import Models
from rbserve.server.scoring.service import Service
from rbserve.server.scoring.work import SlateQuery

Ask = Callable[..., httpx.Response]

BODY = json.dumps({"history": ["i1"], "candidates": ["i3", "i4"]}).encode()
SHOP = "https://shop.example"


def post(ask: Ask, content: bytes, encoding: str) -> httpx.Response:
    headers = {"content-type": "application/json", "content-encoding": encoding}
    return ask("POST", "/v1/score", content=content, headers=headers)


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP"])
def test_a_body_in_gzip_is_what_it_inflates_to(ask: Ask, encoding: str) -> None:
    plain = post(ask, BODY, "identity").json()
    assert post(ask, gzip.compress(BODY), encoding).json() == plain
    inputs = [
        {"name": name, "datatype": "BYTES", "shape": [1], "data": ["i3"]}
        for name in ("history", "candidates")
    ]
    tensors = gzip.compress(json.dumps({"inputs": inputs}).encode())
    answer = ask("POST", "/v2/models/toy/infer", content=tensors, headers={"content-encoding": encoding})
    assert answer.status_code == 200


def test_a_bomb_is_not_inflated_beyond_the_limit(ask: Ask, limits: Limits) -> None:
    bomb = gzip.compress(b" " * 9_000_000)
    assert len(bomb) < limits.max_body_bytes
    answer = post(ask, bomb, "gzip")
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    "content",
    [b"", BODY, gzip.compress(BODY)[:-4], gzip.compress(BODY) + b"more", zlib.compress(BODY), b"\x1f\x8b"],
    ids=["empty", "plain", "cut", "more", "zlib", "two bytes"],
)
def test_what_is_not_one_gzip_file_is_refused(ask: Ask, content: bytes) -> None:
    answer = post(ask, content, "gzip")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_gzip")


@pytest.mark.parametrize("encoding", ["br", "zstd", "deflate", "gzip, gzip"])
def test_other_encodings_are_refused_with_those_that_are_read(ask: Ask, encoding: str) -> None:
    answer = post(ask, BODY, encoding)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_encoding")
    assert answer.headers["accept-encoding"] == "gzip, identity"


def asked(
    service: Service[SlateQuery, Scores], origins: Sequence[str], method: str, path: str, **options: Any
) -> httpx.Response:
    app = build_app(Models([service]), Limits(), read_keys(None), origins=origins)

    async def once() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.request(method, path, **options)

    return asyncio.run(once())


PREFLIGHT = {
    "origin": SHOP,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-deadline-ms",
}


def test_a_page_of_an_origin_that_is_allowed_may_ask(
    service: Service[SlateQuery, Scores], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RBSERVE_API_KEYS", "a-key-that-is-hard-to-guess")
    preflight = asked(service, [SHOP], "OPTIONS", "/v1/score", headers=PREFLIGHT)
    assert preflight.status_code == 204, "without a key: browsers send none with it"
    assert preflight.headers["access-control-allow-origin"] == SHOP
    assert "POST" in preflight.headers["access-control-allow-methods"]
    headers = {"origin": SHOP, "content-type": "application/json"}
    keyed = headers | {"authorization": "Bearer a-key-that-is-hard-to-guess"}
    for given, status in ((keyed, 200), (headers, 401)):
        answer = asked(service, [SHOP], "POST", "/v1/score", content=BODY, headers=given)
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == SHOP, "a page can read a refusal as well"
    assert asked(service, ["*"], "GET", "/", headers=headers).headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    "changed",
    [
        {"origin": "https://other.example"},
        {"access-control-request-method": "DELETE"},
        {"access-control-request-headers": "x-other"},
    ],
)
def test_another_origin_method_or_header_is_refused_in_json(
    service: Service[SlateQuery, Scores], changed: dict[str, str]
) -> None:
    answer = asked(service, [SHOP], "OPTIONS", "/v1/score", headers=PREFLIGHT | changed)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "cors_refused")
    if "origin" in changed:
        assert "access-control-allow-origin" not in answer.headers


def test_without_the_option_no_page_of_another_origin_may_ask(service: Service[SlateQuery, Scores]) -> None:
    answer = asked(service, (), "POST", "/v1/score", content=BODY, headers={"origin": SHOP})
    assert not any(name.startswith("access-control") for name in answer.headers)
    assert asked(service, (), "OPTIONS", "/v1/score", headers=PREFLIGHT).status_code == 405


@pytest.mark.parametrize(
    "origin", ["shop.example", "https://shop.example/", "https://a@b", "null", "", "ftp://x"]
)
def test_what_is_no_origin_is_told(origin: str) -> None:
    with pytest.raises(UsageError, match="is no origin"):
        check_origins([origin])


def test_origins_are_those_that_browsers_send() -> None:
    assert check_origins(["*", "http://localhost:3000", "https://Shop.example"]) == (
        "*", "http://localhost:3000", "https://shop.example",
    )  # fmt: skip
