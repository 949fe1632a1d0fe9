"""The endpoint scorer against a local server that misbehaves as told."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pytest

from rbserve.core.errors import Interrupted, RbserveError, UsageError
from rbserve.core.requests import slate_request
from rbserve.core.types import Scorer
from rbserve.data.columns import Ragged
from rbserve.data.dataset import Dataset
from rbserve.home.target import resolve
from rbserve.models.zoo import find_model
from rbserve.pipeline import exporting, profiling, serving, training
from rbserve.profilers.compare.sections import sections
from rbserve.profilers.report.tables import marked_name
from rbserve.runs.run_file import read_measurement
from rbserve.runtimes import opening
from rbserve.runtimes.endpoint_answers import EndpointAnswer, read
from rbserve.runtimes.endpoint_scorer import (
    FRAME_TOKENS,
    INSTRUCTION,
    MOST_UNCLEAR,
    CostEstimate,
    EndpointScorer,
    UnclearAnswersError,
    approximate_tokens,
    messages,
    question,
)
from rbserve.train.fit import train
from rbserve.train.fitting.loop import Settings

TEXTS = [f"film {row}" for row in range(40)]
KEY = "sk-secret-0123456789"
HISTORY = np.array([3, 1, 2], np.int32)
OLD_ANSWERS = Path(__file__).parents[1] / "frozen" / "0.1" / "endpoint"


@dataclass
class Reply:
    """One answer of the server; `wait`: it comes no sooner than this is set."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    wait: threading.Event | None = None


def completion(text: str | None, logprobs: dict[str, float] | None = None) -> Reply:
    """A chat completion of one token; `logprobs` are probabilities, for readability."""
    choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": text}, "logprobs": None}
    if logprobs is not None:
        top = [{"token": token, "logprob": float(np.log(p)), "bytes": None} for token, p in logprobs.items()]
        choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
    return Reply(json.dumps({"id": "1", "choices": [choice], "usage": {"total_tokens": 9}}).encode())


def failing(status: int, message: str = "no luck", **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(json.dumps({"error": {"message": message, "type": "x"}}).encode(), status, named)


YES = completion("Yes", {"Yes": 0.6, "No": 0.2})


class Endpoint(ThreadingHTTPServer):
    """Answers with `script` in order, then with `usual`; remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.script: list[Reply] = []
        self.usual: Callable[[str], Reply] = lambda _: YES
        self.asked: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.authorizations: list[str | None] = []
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Endpoint
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.in_flight += 1
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
            server.asked.append(body)
            server.paths.append(self.path)
            server.authorizations.append(self.headers["Authorization"])
            scripted = server.script.pop(0) if server.script else None
        reply = scripted or server.usual(body["messages"][1]["content"])
        if reply.wait:
            reply.wait.wait(5)
        with server.lock:
            server.in_flight -= 1
        self.send_response(reply.status)
        for name, value in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


Open = Callable[..., EndpointScorer]


@pytest.fixture
def pauses() -> list[float]:
    """How long the scorers of `open_scorer` would have slept."""
    return []


@pytest.fixture
def open_scorer(endpoint: Endpoint, tmp_path: Path, pauses: list[float]) -> Iterator[Open]:
    """Makes scorers that keep their answers in one folder and sleep not at all."""
    with contextlib.ExitStack() as opened:

        def make(**options: Any) -> EndpointScorer:
            settings = {
                "base_url": endpoint.url,
                "key": KEY,
                "sleep": pauses.append,
                "timeout_s": 5.0,
            } | options
            return opened.enter_context(EndpointScorer(TEXTS, tmp_path / "answers", **settings))

        yield make


def one(scorer: EndpointScorer) -> float:
    """The score of any one row."""
    return float(scorer.score(slate_request(HISTORY, np.array([7], np.int32)))[0])


def kept_answers(folder: Path) -> dict[str, str]:
    """The answers on disk, JSON by key."""
    with contextlib.closing(sqlite3.connect(folder / "answers" / "answers.sqlite3")) as database:
        return dict(database.execute("select key, answer from answers"))


def keep_as_version_0_1(folder: Path, answers: dict[str, str]) -> Path:
    """Leaves the answers as version 0.1 kept them, without a database; returns the file."""
    for path in (folder / "answers").iterdir():
        path.unlink()
    path = folder / "answers" / "answers.jsonl"
    path.write_text("".join(f'{{"key":"{key}","answer":{answer}}}\n' for key, answer in answers.items()))
    return path


def rows(n: int) -> tuple[Ragged, np.ndarray[Any, Any]]:
    """n different rows."""
    lengths = np.arange(n) % 3
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    return Ragged(np.arange(offsets[-1], dtype=np.int32) % 40, offsets), np.arange(n, dtype=np.int32)


# The prompt


def test_the_prompt_is_the_papers() -> None:
    assert messages(["A", "B"], "C") == [
        {
            "role": "system",
            "content": 'You are a recommender. Please response "YES" or "NO" to represent whether this user is '
            "interested in this item. ",
        },
        {
            "role": "user",
            "content": "User behavior sequence: \n(1) A\n(2) B\nCandidate item: C\nAnswer (Yes/No): ",
        },
    ]


def test_the_prompt_has_the_last_20_items_or_none() -> None:
    long = question([str(place) for place in range(25)], "C")
    assert "(1) 5\n" in long
    assert "(20) 24\nCandidate" in long
    assert question([], "C") == "User behavior sequence: \nCandidate item: C\nAnswer (Yes/No): "


# What an answer is worth


@pytest.mark.parametrize(
    ("probabilities", "score"),
    [
        ({"Yes": 0.6, "No": 0.2}, 0.75),
        ({"Yes": 0.2, " yes": 0.1, "YES": 0.1, "\nyes": 0.05, "No": 0.1, " NO": 0.05, "Not": 0.3}, 0.75),
        ({"▁Yes": 0.3, "ĠNo": 0.1}, 0.75),
        ({"Yes": 0.6, "Maybe": 0.3, "I": 0.05}, 0.6 / 0.65),  # no is at most as likely as the least likely
        ({"Yes": 0.9, "I": 0.08}, 0.9 / 0.92),  # nor likelier than what is left
        ({"No": 0.9}, 0.1),
        ({"No": 1.0}, 0.0),
    ],
)
def test_the_score_is_the_share_of_yes(probabilities: dict[str, float], score: float) -> None:
    reading = read(EndpointAnswer("Yes", [(token, float(np.log(p))) for token, p in probabilities.items()]))
    assert reading.score == pytest.approx(score)
    assert (reading.hard, reading.clear) == (False, True)


def test_log_probabilities_without_either_word_say_nothing() -> None:
    assert read(EndpointAnswer("Maybe", [("Maybe", -0.1), ("Yesterday", -3.0)])) == (0.5, False, False)
    assert read(EndpointAnswer("Maybe", [("Maybe", 0.0), ("Yes", -9999.0), ("No", -9999.0)])) == (
        0.5,
        False,
        False,
    )


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Yes", 1.0),
        (" yes.", 1.0),
        ("NO", 0.0),
        ("No, never", 0.0),
        ("Maybe", 0.5),
        ("nothing", 0.5),
        ("", 0.5),
    ],
)
def test_without_log_probabilities_the_text_decides(text: str, score: float) -> None:
    assert read(EndpointAnswer(text, None)) == (score, True, score != 0.5)


# Asking


def test_a_request_is_what_the_paper_asks(endpoint: Endpoint, open_scorer: Open) -> None:
    scorer = open_scorer(model="some-model")
    assert isinstance(scorer, Scorer)
    assert one(scorer) == pytest.approx(0.75)
    assert endpoint.asked == [
        {
            "model": "some-model",
            "messages": messages(["film 3", "film 1", "film 2"], "film 7"),
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": 20,
        }
    ]
    assert endpoint.paths == ["/v1/chat/completions"]
    assert endpoint.authorizations == [f"Bearer {KEY}"]


def test_a_local_server_needs_no_key_and_may_be_asked_for_no_log_probabilities(
    endpoint: Endpoint, open_scorer: Open
) -> None:
    one(open_scorer(key="", top_logprobs=0, base_url=f"{endpoint.url}/"))
    assert endpoint.authorizations == [None]
    assert endpoint.paths == ["/v1/chat/completions"]
    assert "logprobs" not in endpoint.asked[0]


def test_scores_stand_in_the_order_of_the_candidates(endpoint: Endpoint, open_scorer: Open) -> None:
    def by_candidate(prompt: str) -> Reply:
        share = int(prompt.split("Candidate item: film ")[1].split("\n")[0]) / 100
        return completion("Yes", {"Yes": share, "No": 1 - share})

    endpoint.usual = by_candidate
    candidates = np.array([9, 5, 30, 5], np.int32)
    scores = open_scorer().score(slate_request(HISTORY, candidates))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, candidates / 100, rtol=1e-5)
    assert len(endpoint.asked) == 3  # equal prompts are asked once


def test_an_empty_history_and_an_empty_slate_are_legal(endpoint: Endpoint, open_scorer: Open) -> None:
    scorer, none = open_scorer(), np.array([], np.int32)
    assert scorer.score(slate_request(none, np.array([1], np.int32))).shape == (1,)
    empty = scorer.score(slate_request(HISTORY, none))
    assert (empty.shape, empty.dtype) == ((0,), np.float32)
    assert len(endpoint.asked) == 1


def test_hard_answers_come_from_disk_and_unclear_ones_are_asked_for_again(
    endpoint: Endpoint, open_scorer: Open
) -> None:
    unclear = [completion(None), completion("Well", {"Well": 0.9, "I": 0.05})]
    endpoint.script = [completion("No"), *unclear, YES, *unclear]
    for asked in (4, 6):
        scorer = open_scorer(concurrency=1)
        for _ in range(2):  # the second time this process knows
            np.testing.assert_allclose(scorer.score_rows(*rows(4)), [0.0, 0.5, 0.5, 0.75])
        assert (scorer.hard_answers, scorer.unclear) == (4, 4)
        assert len(endpoint.asked) == asked


def test_unclear_answers_that_an_earlier_version_kept_are_asked_for_again(
    endpoint: Endpoint, open_scorer: Open, tmp_path: Path
) -> None:
    one(open_scorer())
    (key,) = kept_answers(tmp_path)
    keep_as_version_0_1(tmp_path, {key: '{"text": "", "logprobs": null}'})
    assert one(open_scorer()) == pytest.approx(0.75)
    assert len(endpoint.asked) == 2


REASONING = Reply(
    json.dumps({"choices": [{"message": {"content": None}, "finish_reason": "length"}]}).encode()
)


def test_a_model_that_never_answers_is_paid_for_twenty_times(endpoint: Endpoint, open_scorer: Open) -> None:
    endpoint.usual = lambda _: REASONING
    scorer = open_scorer(concurrency=4)
    with pytest.raises(UnclearAnswersError) as caught:
        scorer.score_rows(*rows(40))
    assert MOST_UNCLEAR <= len(endpoint.asked) <= MOST_UNCLEAR + 3
    assert "20 of the first 20 answers of gpt-3.5-turbo are neither yes nor no" in caught.value.message
    assert "(the last: no text, finish_reason length)" in caught.value.message
    assert "max_completion_tokens" in (caught.value.hint or "")


def test_a_few_unclear_answers_among_clear_ones_stop_nothing(endpoint: Endpoint, open_scorer: Open) -> None:
    endpoint.script = [YES, YES, REASONING] * 13
    scorer = open_scorer(concurrency=1)
    assert len(scorer.score_rows(*rows(39))) == 39
    assert scorer.unclear == 13


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({}, {"max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": 20}),
        (
            {"max_completion_tokens": 1000, "greedy": False, "top_logprobs": 0},
            {"max_completion_tokens": 1000},
        ),
    ],
)
def test_a_parameter_that_an_endpoint_refuses_can_be_left_out(
    endpoint: Endpoint, open_scorer: Open, options: dict[str, Any], sent: dict[str, Any]
) -> None:
    one(open_scorer(**options))
    parameters = {key: value for key, value in endpoint.asked[0].items() if key not in ("model", "messages")}
    assert parameters == sent


@pytest.mark.parametrize(
    ("message", "way_out"),
    [
        (
            "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
            "max_completion_tokens=1",
        ),
        ("Unsupported value: 'temperature' does not support 0 with this model.", "greedy=false"),
        ("You are not allowed to request logprobs from this model", "top_logprobs=0"),
    ],
)
def test_a_refusal_of_a_parameter_names_the_way_out(
    endpoint: Endpoint, open_scorer: Open, message: str, way_out: str
) -> None:
    endpoint.script = [failing(400, message)]
    with pytest.raises(RbserveError) as caught:
        one(open_scorer())
    assert way_out in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("key", "message", "shown"),
    [
        ("x", "Unsupported parameter: 'max_tokens'", "Unsupported parameter: 'max_tokens'"),
        ("x", "invalid key 'x' (Bearer x)", "invalid key '***' (Bearer ***)"),
        ("k-1", "no k-12, ask-1, k-1", "no k-12, ask-1, ***"),
        (KEY, f"the key={KEY}is wrong", "the key=***is wrong"),
    ],
)
def test_a_short_key_is_hidden_where_it_is_a_word_and_a_long_one_everywhere(
    endpoint: Endpoint, open_scorer: Open, key: str, message: str, shown: str
) -> None:
    endpoint.script = [failing(403, message)]
    with pytest.raises(RbserveError) as caught:
        one(open_scorer(key=key))
    assert caught.value.message.endswith(f"403 {shown}")


def test_no_more_requests_are_under_way_than_allowed(endpoint: Endpoint, open_scorer: Open) -> None:
    three = threading.Barrier(3)

    def together(_: str) -> Reply:
        three.wait(5)
        sleep(0.02)  # a fourth would come now
        return YES

    endpoint.usual = together
    seen: list[tuple[int, int]] = []
    open_scorer(concurrency=3).score_rows(*rows(12), lambda done, total, _: seen.append((done, total)))
    assert endpoint.most_in_flight == 3
    assert seen == [(done, 12) for done in range(13)]


# What may pass is tried again


def test_nothing_is_paid_for_that_could_not_be_kept(
    endpoint: Endpoint, open_scorer: Open, tmp_path: Path
) -> None:
    scorer = open_scorer()
    (tmp_path / "answers").write_text("where a folder should be")
    with pytest.raises(RbserveError, match="answers"):
        one(scorer)
    assert endpoint.asked == []


@pytest.mark.parametrize("asks", ["7", "Thu, 01 Jan 1970 00:16:47 GMT"])
def test_a_server_that_asks_for_a_pause_gets_it(
    endpoint: Endpoint, open_scorer: Open, pauses: list[float], asks: str
) -> None:
    endpoint.script = [failing(429, retry_after=asks)]
    scorer = open_scorer(clock=lambda: 1000.0)
    assert one(scorer) == pytest.approx(0.75)
    assert len(pauses) == 1
    assert 7 <= pauses[0] <= 7 * 1.25
    assert scorer.retries == 1


def test_pauses_double_and_vary(endpoint: Endpoint, open_scorer: Open, pauses: list[float]) -> None:
    endpoint.script = [failing(status) for status in (500, 502, 503, 504)]
    assert one(open_scorer()) == pytest.approx(0.75)
    for pause, least in zip(pauses, (1, 2, 4, 8), strict=True):
        assert least <= pause <= 1.25 * least


def test_a_pause_beyond_all_patience_is_not_made(
    endpoint: Endpoint, open_scorer: Open, pauses: list[float]
) -> None:
    endpoint.script = [failing(429, "come back tomorrow", retry_after="86400")]
    with pytest.raises(RbserveError, match="429 come back tomorrow; it asks for a pause of 86,400 s"):
        one(open_scorer())
    assert pauses == []


@pytest.mark.parametrize("asks", ["soon", "nan", "inf", "-5", "Thu, 99 Jan"])
def test_a_pause_that_is_none_is_ignored(
    endpoint: Endpoint, open_scorer: Open, pauses: list[float], asks: str
) -> None:
    endpoint.script = [failing(429, retry_after=asks)]
    one(open_scorer())
    assert 1 <= pauses[0] <= 1.25


def test_a_server_that_is_slow_once_is_asked_again(endpoint: Endpoint, open_scorer: Open) -> None:
    gate = threading.Event()
    endpoint.script = [Reply(YES.body, wait=gate)]
    scorer = open_scorer(timeout_s=0.3)
    assert one(scorer) == pytest.approx(0.75)
    assert scorer.retries == 1
    gate.set()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>bad gateway</html>",
        b'{"choices": [',
        b'{"choices": []}',
        b'{"choices": [{"message": "Yes"}]}',
        b'{"choices": [{"message": {"content": "Yes"}, "logprobs": {"content": [{"token": "Yes"}]}}]}',
        b'{"choices": [{"message": {"content": "\xff"}}]}',
        b'{"choices": [{"message": {"content": "Yes"}, "deep": ' + b"[" * 100_000,
        b'{"error": {"message": "overloaded"}}',
        b"null",
    ],
    ids=str,
)
def test_what_is_no_completion_is_asked_again_and_then_given_up(
    endpoint: Endpoint, open_scorer: Open, body: bytes
) -> None:
    endpoint.script = [Reply(body)]
    assert one(open_scorer()) == pytest.approx(0.75)
    endpoint.script = [Reply(body)] * 3
    with pytest.raises(RbserveError, match=r"gave no answer \(attempts: 3\): no chat completion"):
        one(open_scorer(model="another", max_retries=2))
    assert endpoint.script == []


def test_after_all_retries_the_last_failure_is_told(endpoint: Endpoint, open_scorer: Open) -> None:
    endpoint.script = [failing(500), failing(500), failing(503, "the model is loading")]
    with pytest.raises(RbserveError, match="503 the model is loading") as caught:
        one(open_scorer(max_retries=2))
    assert endpoint.url in caught.value.message
    assert "kept" in (caught.value.hint or "")


def test_nobody_there_is_told(open_scorer: Open, pauses: list[float]) -> None:
    with pytest.raises(RbserveError, match="refused"):
        one(open_scorer(base_url="http://127.0.0.1:1/v1", max_retries=1))
    assert len(pauses) == 1


# What will not pass is told at once


@pytest.mark.parametrize("status", [400, 401, 403, 404, 307])
def test_a_refusal_is_told_at_once_in_the_servers_words(
    endpoint: Endpoint, open_scorer: Open, pauses: list[float], status: int
) -> None:
    endpoint.usual = lambda _: failing(status, f"Bearer {KEY}\n is not\x1b[31m known")
    with pytest.raises(RbserveError, match=rf"{status} Bearer \*\*\* is not \[31m known") as caught:
        open_scorer(concurrency=1).score_rows(*rows(5))
    assert caught.value.hint
    assert len(endpoint.asked) == 1
    assert pauses == []


def test_a_refusal_ends_the_pauses_of_other_requests_and_is_what_is_told(
    endpoint: Endpoint, open_scorer: Open
) -> None:
    gate = threading.Event()
    endpoint.script = [Reply(failing(401).body, 401, wait=gate)]

    def busy(_: str) -> Reply:
        if len(endpoint.asked) == 3:
            gate.set()
        return failing(503, retry_after="200")

    endpoint.usual = busy
    with pytest.raises(RbserveError, match="401 no luck"):  # its own sleep: pauses end at once
        open_scorer(concurrency=3, sleep=None).score_rows(*rows(30))
    assert len(endpoint.asked) == 3


@pytest.mark.parametrize(
    "body",
    [b'{"error": "KEY no"}', b'{"message": "KEY no"}', b'{"detail": "KEY no"}', b"KEY no", b'["KEY no"]'],
)
@pytest.mark.parametrize("status", [200, 401, 500])
def test_no_error_shows_the_key(endpoint: Endpoint, open_scorer: Open, body: bytes, status: int) -> None:
    endpoint.usual = lambda _: Reply(body.replace(b"KEY", KEY.encode()), status)
    with pytest.raises(RbserveError, match=r"\*\*\* no") as caught:
        one(open_scorer(max_retries=0))
    assert KEY not in f"{caught.value!r} {caught.value.hint} {caught.value.__cause__!r}"
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_nothing_on_disk_has_the_key(endpoint: Endpoint, open_scorer: Open, tmp_path: Path) -> None:
    one(open_scorer())
    assert all(KEY.encode() not in path.read_bytes() for path in (tmp_path / "answers").iterdir())


# Resuming


def test_what_is_answered_is_not_asked_again(endpoint: Endpoint, open_scorer: Open) -> None:
    histories, candidates = rows(6)
    endpoint.script = [YES, YES, failing(401)]
    with pytest.raises(RbserveError, match="401"):
        open_scorer(concurrency=1).score_rows(histories, candidates)
    seen: list[tuple[int, int]] = []
    scores = open_scorer().score_rows(
        histories, candidates, lambda done, total, _: seen.append((done, total))
    )
    np.testing.assert_allclose(scores, 0.75)
    assert len(endpoint.asked) == 3 + 4
    assert seen == [(done, 6) for done in range(2, 7)]
    open_scorer().score_rows(histories, candidates)
    assert len(endpoint.asked) == 7


def test_another_model_or_endpoint_is_asked_itself(endpoint: Endpoint, open_scorer: Open) -> None:
    one(open_scorer())
    one(open_scorer(model="another"))
    one(open_scorer(base_url=f"{endpoint.url}/other"))
    one(open_scorer(key="another-key"))  # the key is no part of the question
    assert len(endpoint.asked) == 3


def test_answers_that_version_0_1_kept_are_not_asked_for_again(
    endpoint: Endpoint, open_scorer: Open, tmp_path: Path
) -> None:
    """The file is of version 0.1, with one score of 0.75 and a hard yes; its base URL is no server's."""
    shutil.copytree(OLD_ANSWERS, tmp_path / "answers")
    before = (tmp_path / "answers" / "answers.jsonl").read_bytes()
    for _ in range(2):
        scorer = open_scorer(base_url="http://127.0.0.1:1/v1", max_retries=0)
        np.testing.assert_allclose(
            scorer.score(slate_request(HISTORY, np.array([7, 8], np.int32))), [0.75, 1.0]
        )
        assert scorer.hard_answers == 1
    assert endpoint.asked == []
    assert (tmp_path / "answers" / "answers.jsonl").read_bytes() == before


@pytest.mark.parametrize("torn_at", [1, 30, -2, -1])
def test_a_torn_last_line_of_version_0_1_is_no_answer_and_harms_no_other(
    endpoint: Endpoint, open_scorer: Open, tmp_path: Path, torn_at: int
) -> None:
    histories, candidates = rows(3)
    open_scorer(concurrency=1).score_rows(histories, candidates)
    path = keep_as_version_0_1(tmp_path, kept_answers(tmp_path))
    *whole, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole) + last[:torn_at])
    for _ in range(2):
        open_scorer().score_rows(*rows(5))
    lost = torn_at != -1  # without its line end alone, the answer is whole
    assert len(endpoint.asked) == 3 + lost + 2


def test_bytes_that_are_no_line_of_version_0_1_are_passed_over(
    endpoint: Endpoint, open_scorer: Open, tmp_path: Path
) -> None:
    one(open_scorer())
    path = keep_as_version_0_1(tmp_path, kept_answers(tmp_path))
    path.write_bytes(b'\xff\x00{}\n\n{"key": 1}\n' + path.read_bytes())
    one(open_scorer())
    assert len(endpoint.asked) == 1


ASKER = """
import sys, numpy as np
from pathlib import Path
from rbserve.data.columns import Ragged
from rbserve.runtimes.endpoint_scorer import EndpointScorer
url, folder, n = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
with EndpointScorer([f"film {row}" for row in range(40)], folder, base_url=url, concurrency=4) as scorer:
    print("ready", flush=True)
    sys.stdin.readline()
    empty = Ragged(np.array([], np.int32), np.zeros(n + 1, np.int64))
    print(len(scorer.score_rows(empty, np.arange(n, dtype=np.int32))))
"""


def test_two_processes_pay_for_no_answer_twice(endpoint: Endpoint, tmp_path: Path) -> None:
    def slow(_: str) -> Reply:
        sleep(0.02)  # so that both want the same answers at the same time
        return YES

    endpoint.usual = slow
    command = [sys.executable, "-c", ASKER, endpoint.url, str(tmp_path / "answers"), "40"]
    with contextlib.ExitStack() as started:
        askers = [
            started.enter_context(subprocess.Popen(command, stdin=-1, stdout=-1, text=True)) for _ in range(2)
        ]
        for asker in askers:
            assert asker.stdout is not None
            assert asker.stdout.readline() == "ready\n"
        for asker in askers:
            assert asker.stdin is not None
            asker.stdin.write("go\n")
            asker.stdin.flush()
        assert [asker.communicate(timeout=60)[0] for asker in askers] == ["40\n", "40\n"]
    prompts = [request["messages"][1]["content"] for request in endpoint.asked]
    assert len(prompts) == len(set(prompts)) == 40
    assert len(kept_answers(tmp_path)) == 40


def test_an_answer_that_another_process_asks_for_is_waited_for(
    endpoint: Endpoint, open_scorer: Open, tmp_path: Path
) -> None:
    scorer = open_scorer()
    one(scorer)
    (key,) = kept_answers(tmp_path)
    holder = "import fcntl, sys; file = open(sys.argv[1], 'r+b')\n"
    holder += "fcntl.lockf(file, fcntl.LOCK_EX, 1, int(sys.argv[2][:15], 16))\nprint(flush=True); input()"
    lock = str(tmp_path / "answers" / "answers.lock")
    with subprocess.Popen([sys.executable, "-c", holder, lock, key], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with sqlite3.connect(tmp_path / "answers" / "answers.sqlite3") as database:
            database.execute("delete from answers")
        answered = threading.Event()
        thread = threading.Thread(target=lambda: (one(scorer), answered.set()))
        thread.start()
        assert not answered.wait(0.3)
        assert len(endpoint.asked) == 1
        other.kill()  # its claim ends with it
    thread.join(10)
    assert answered.is_set()
    assert len(endpoint.asked) == 2


def test_answers_that_can_only_be_read_are_read(
    endpoint: Endpoint, open_scorer: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_scorer() as writer:
        writer.score_rows(*rows(2))
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    scorer = open_scorer()
    np.testing.assert_allclose(scorer.score_rows(*rows(2)), 0.75)
    with pytest.raises(RbserveError, match="readonly"):
        scorer._answers.add("0" * 64, EndpointAnswer("Yes", None))
    assert len(endpoint.asked) == 2


def test_a_file_that_is_no_database_is_told(open_scorer: Open, tmp_path: Path) -> None:
    (tmp_path / "answers").mkdir()
    (tmp_path / "answers" / "answers.sqlite3").write_text("no database " * 100)
    with pytest.raises(RbserveError, match="not a database") as caught:
        open_scorer()
    assert "move the file away" in (caught.value.hint or "")


def test_an_answer_that_the_disk_has_no_room_for_ends_the_work(
    endpoint: Endpoint, open_scorer: Open, tmp_path: Path
) -> None:
    scorer = open_scorer(concurrency=1)
    one(scorer)
    assert scorer._answers._database is not None
    scorer._answers._database.execute("PRAGMA max_page_count = 1")
    long = completion("Yes " * 20_000)
    endpoint.usual = lambda _: long
    with pytest.raises(RbserveError, match="full") as caught:
        scorer.score_rows(*rows(5))
    assert "free the disk" in (caught.value.hint or "")
    assert len(endpoint.asked) == 2
    assert len(kept_answers(tmp_path)) == 1


def test_ctrl_c_keeps_what_is_answered_and_asks_no_more(endpoint: Endpoint, open_scorer: Open) -> None:
    histories, candidates = rows(30)

    def press(prompt: str) -> Reply:
        if len(endpoint.asked) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return YES if len(endpoint.asked) <= 3 else failing(503)

    endpoint.usual = press
    with pytest.raises(Interrupted, match="kept"):  # its own sleep: pauses end at once
        open_scorer(concurrency=1, sleep=None).score_rows(histories, candidates)
    assert 3 <= len(endpoint.asked) <= 4
    endpoint.usual = lambda _: YES
    endpoint.asked.clear()
    open_scorer().score_rows(histories, candidates)
    assert len(endpoint.asked) == 27


def test_a_scorer_retries_after_an_earlier_call_as_well(endpoint: Endpoint, open_scorer: Open) -> None:
    scorer = open_scorer()
    one(scorer)
    endpoint.script = [failing(500)]
    assert scorer.ask(HISTORY, 7).text == "Yes"  # asked although it is on disk
    assert len(endpoint.asked) == 3


# What it costs


def test_an_estimate_counts_what_is_still_to_be_asked(endpoint: Endpoint, open_scorer: Open) -> None:
    scorer = open_scorer()
    histories = Ragged(np.array([], np.int32), np.zeros(5, np.int64))
    candidates = np.array([1, 2, 2, 3], np.int32)
    prompt = FRAME_TOKENS + len(INSTRUCTION) + len(question([], "film 1"))
    found = scorer.estimate(histories, candidates, 0.5, 1.5, count_tokens=len)
    assert found == CostEstimate(3, 0, 3 * prompt, 3, pytest.approx(3 * (prompt * 0.5 + 1.5) / 1e6))
    assert endpoint.asked == []
    one_row = Ragged(histories.values, histories.offsets[:2])
    scorer.score_rows(one_row, candidates[:1])
    found = scorer.estimate(histories, candidates, 0.5, 1.5)
    assert (found.requests, found.answered) == (2, 1)
    assert found.prompt_tokens == 2 * (
        FRAME_TOKENS + approximate_tokens(INSTRUCTION) + approximate_tokens(question([], "film 2"))
    )


def test_tokens_are_a_quarter_of_the_bytes() -> None:
    assert [approximate_tokens(text) for text in ("", "a", "abcd", "abcde", "你好")] == [0, 1, 1, 2, 2]


# What cannot be


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concurrency": 0}, "concurrency must be at least 1, not 0"),
        ({"max_retries": -1}, "retries must be 0 or more, not -1"),
        ({"timeout_s": 0.0}, "the timeout must be more than 0 seconds, not 0.0"),
        ({"top_logprobs": 21}, "top_logprobs goes from 0 to 20, not 21"),
        ({"base_url": "localhost:8000"}, "not a base URL: 'localhost:8000'"),
        ({"base_url": "http://a b/v1"}, "not a base URL"),
        ({"base_url": "http://host:port/v1"}, "not a base URL"),
        ({"base_url": "http://host/v1?a=b"}, "not a base URL"),
        ({"base_url": f"http://me:{KEY}@host/v1"}, "holds a name or password"),
        ({"key": f"{KEY}\nX-Other: 1"}, "characters that no key has"),
        ({"key": f"{KEY}é"}, "characters that no key has"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(
    open_scorer: Open, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        open_scorer(**options)
    assert KEY not in f"{caught.value} {caught.value.hint}"


def test_without_httpx_the_extra_is_named(open_scorer: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(UsageError, match="needs httpx") as caught:
        open_scorer()
    assert caught.value.hint == "pip install 'rbserve[api]'"


def test_the_papers_row_is_packaged_profiled_and_told_by_its_cost(
    endpoint: Endpoint,
    planted: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """From the zoo row to a run file, over a server that says yes to one topic."""
    monkeypatch.setenv("RBSERVE_HOME", str(tmp_path))
    monkeypatch.setenv("RBSERVE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(planted.path, tmp_path / "data/planted")
    endpoint.usual = lambda _: completion("Yes", {"Yes": 0.75, "No": 0.25})
    options = {"api_base": endpoint.url, "concurrency": "2"}
    artifact = training.train(find_model("zeroshot-gpt-3.5"), "planted", {}, options)
    assert artifact.variants == ["endpoint"]
    with pytest.raises(UsageError, match="nothing to export"):
        exporting.export(artifact, ["fp32"])
    measurement = profiling.profile(resolve("zeroshot-gpt-3.5", "planted"), {"runs": 3, "test_users": 4})
    told = capsys.readouterr().err
    assert "requests to make (0 answered before)" in told
    assert "USD" in told
    numbers = re.search(r"([\d,]+) requests to make .* at most ([\d,]+) to time it, warm-up included", told)
    assert numbers
    assert len(endpoint.asked) == sum(int(number.replace(",", "")) for number in numbers.groups())
    (result,) = measurement.results
    assert (result.variant, result.slate, result.n) == ("endpoint", 1, 3)
    assert result.accuracy["auc"] == 0.5
    profiling.profile(resolve("zeroshot-gpt-3.5", "planted"), {"runs": 3, "test_users": 4})
    assert " 0 requests to make" in capsys.readouterr().err


def test_an_endpoint_that_says_nothing_leaves_a_marked_run_and_an_error(
    endpoint: Endpoint, planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RBSERVE_HOME", str(tmp_path))
    monkeypatch.setenv("RBSERVE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(planted.path, tmp_path / "data/planted")
    endpoint.usual = lambda _: REASONING
    training.train(
        find_model("zeroshot-gpt-3.5"), "planted", {}, {"api_base": endpoint.url, "concurrency": "2"}
    )
    with pytest.raises(UnclearAnswersError, match="20 of the first 20 answers") as caught:
        profiling.profile(resolve("zeroshot-gpt-3.5", "planted"), {"runs": 50})
    assert len(endpoint.asked) <= MOST_UNCLEAR + 1 + 7  # and the fewest calls that time it
    (path,) = (tmp_path / "runs").glob("*.json")
    assert str(path) in (caught.value.hint or "")
    (result,) = read_measurement(path).results
    assert result.accuracy == {}
    assert result.n == 3
    assert any("no accuracy: stopped: 20 of the first 20 answers" in warning for warning in result.warnings)


def test_unclear_answers_are_counted_in_the_run_and_mark_its_row(
    endpoint: Endpoint, planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RBSERVE_HOME", str(tmp_path))
    monkeypatch.setenv("RBSERVE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(planted.path, tmp_path / "data/planted")
    numbers = itertools.count()
    endpoint.usual = lambda _: REASONING if next(numbers) % 4 == 0 else YES
    training.train(
        find_model("zeroshot-gpt-3.5"), "planted", {}, {"api_base": endpoint.url, "concurrency": "1"}
    )
    run = profiling.profile(resolve("zeroshot-gpt-3.5", "planted"), {"runs": 3, "test_users": 4})
    unclear, rows = run.predictions.unclear["endpoint"], len(run.predictions.users)
    assert 0 < unclear < rows / 2
    told = f"{unclear} of {rows} answers ({unclear / rows:.1%}) are neither yes nor no and count as 0.5"
    assert any(warning.startswith(told) for warning in run.results[0].warnings)
    (section,) = sections([run])
    assert all(" ⚠" in marked_name(point) for point in section.points)


def test_a_server_is_not_held_against_an_endpoint_that_is_paid_for_every_call(
    endpoint: Endpoint, planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RBSERVE_HOME", str(tmp_path))
    shutil.copytree(planted.path, tmp_path / "data/planted")
    training.train(find_model("zeroshot-gpt-3.5"), "planted", {}, {"api_base": endpoint.url})
    with pytest.raises(UsageError, match="would pay for every call"):
        serving.verify(resolve("zeroshot-gpt-3.5", "planted"), "http://127.0.0.1:9", None, None, 2)
    assert endpoint.asked == []


def test_openai_without_a_key_is_refused_before_it_is_asked(
    planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    made = train(find_model("zeroshot-gpt-3.5"), planted, tmp_path / "gpt", Settings())
    with pytest.raises(UsageError, match="no key in OPENAI_API_KEY"):
        opening.open_scorer(made, "endpoint")
