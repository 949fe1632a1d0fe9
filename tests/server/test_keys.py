"""API keys: who has none is told so, before anything of his request is read."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from rbserve.client import Client, ServerError
from rbserve.core.errors import UsageError
from rbserve.core.tasks import CTR
from rbserve.core.types import Scores
from rbserve.server.api.openapi import FREE, openapi
from rbserve.server.api.options import Limits
from rbserve.server.http.keys import read_keys
from rbserve.server.routes.app import build_app
from rbserve.server.scoring.models import Models
from rbserve.server.scoring.service import Service
from rbserve.server.scoring.work import SlateQuery

KEY, OTHER = "a-key-that-is-long-enough", "another-key-of-this-server"
BODY = {"history": [], "candidates": ["i1"]}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    file = tmp_path / "keys"
    file.write_text(f"# of the shop\n{KEY}\n\n  {OTHER}  \n")
    return file


def ask(service: Service[SlateQuery, Scores], keys: Path, path: str, said: str | None) -> httpx.Response:
    app = build_app(Models([service]), Limits(), read_keys(keys))

    async def once() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
            headers = {} if said is None else {b"authorization": said.encode()}
            if path.startswith("/v1/score"):
                return await http.post(path, json=BODY, headers=headers)
            return await http.get(path, headers=headers)

    return asyncio.run(once())


@pytest.mark.parametrize("key", [KEY, OTHER])
@pytest.mark.parametrize("kind", ["Bearer", "bearer"])
def test_each_key_opens_what_is_closed(
    service: Service[SlateQuery, Scores], keys: Path, key: str, kind: str
) -> None:
    assert ask(service, keys, "/v1/score", f"{kind} {key}").status_code == 200
    assert ask(service, keys, "/v1/models", f"{kind} {key}").status_code == 200


@pytest.mark.parametrize(
    "said", [None, "", "Bearer", "Bearer ", f"Basic {KEY}", KEY, f"Bearer {KEY}x", f"Bearer {KEY[:-1]}",
             "Bearer # of the shop", "Bearer ü"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/score", "/v1/models", "/metrics", "/v2", "/v2/models/toy", "/nowhere"])
def test_nothing_else_does(
    service: Service[SlateQuery, Scores], keys: Path, said: str | None, path: str
) -> None:
    refused = ask(service, keys, path, said)
    assert refused.status_code == 401
    error = refused.json()["error"]
    if path.startswith("/v2"):
        assert error.startswith("an API key is needed")
    else:
        assert error["code"] == "unauthorized"
    assert refused.headers["www-authenticate"] == "Bearer"
    assert KEY not in refused.text


def test_health_and_the_document_are_open_and_refusals_are_counted(
    service: Service[SlateQuery, Scores], keys: Path
) -> None:
    for path in ("/v1/health/live", "/v1/health/ready", "/openapi.json"):
        assert ask(service, keys, path, None).status_code == 200
    ask(service, keys, "/v1/score", None)
    found = ask(service, keys, "/metrics", f"Bearer {KEY}").text
    assert 'rbserve_requests_total{route="/v1/score",status="401"} 1.0' in found
    assert KEY not in found


def test_the_document_says_what_takes_a_key() -> None:
    paths = openapi(Limits(), [CTR], keyed=True)["paths"]
    keyed = {path for path, verbs in paths.items() for one in verbs.values() if "security" in one}
    assert keyed == paths.keys() - set(FREE)
    assert {"/v1/score", "/v1/models", "/metrics"} <= keyed
    assert all("401" in one["responses"] for path in keyed for one in paths[path].values())
    free = openapi(Limits(), [CTR])
    assert "securitySchemes" not in free["components"]


def test_keys_come_from_the_environment_without_a_file(monkeypatch: pytest.MonkeyPatch, keys: Path) -> None:
    monkeypatch.delenv("RBSERVE_API_KEYS", raising=False)
    assert read_keys(None) == frozenset()
    monkeypatch.setenv("RBSERVE_API_KEYS", f"{KEY}, {OTHER}")
    assert read_keys(None) == read_keys(keys)


@pytest.mark.parametrize(("text", "said"), [("", "has no API key"), ("# none\n\n", "has no API key"),
                                            ("short\n", "API key 1 has 5 characters")])  # fmt: skip
def test_files_without_usable_keys_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "keys").write_text(text)
    with pytest.raises(UsageError, match=said) as refused:
        read_keys(tmp_path / "keys")
    assert "short" not in refused.value.message
    with pytest.raises(UsageError, match="cannot read the API keys of"):
        read_keys(tmp_path / "gone")


def test_the_client_sends_its_key_or_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, str]] = []

    def exchange(
        self: Client, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        sent.append(headers)
        return 401, b'{"error": {"code": "unauthorized", "message": "an API key is needed"}}'

    monkeypatch.setattr(Client, "_exchange", exchange)
    monkeypatch.setenv("RBSERVE_API_KEY", KEY)
    for client in (Client("http://127.0.0.1:1"), Client("http://127.0.0.1:1", api_key=OTHER)):
        with pytest.raises(ServerError, match="an API key is needed"):
            client.score([], ["i1"])
    assert [one["authorization"] for one in sent] == [f"Bearer {KEY}", f"Bearer {OTHER}"]
