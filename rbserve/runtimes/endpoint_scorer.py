"""The zero-shot recommender behind an OpenAI-compatible HTTP endpoint: the paper's GPT-3.5 row.

One request for each candidate, an answer of one token; its log-probabilities give the score (`endpoint_answers.read`).
Answers cost money and time, so each is on disk as soon as it is there: work that was stopped goes on where it ended.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import msgspec
import numpy as np

from rbserve.core.errors import Interrupted, RbserveError, UsageError
from rbserve.core.requests import Request, slate_of
from rbserve.core.types import Items, Progress, Scores, no_progress
from rbserve.data.columns import Ragged
from rbserve.models.prompts import ANSWER, CANDIDATE, HISTORY, INSTRUCTION, numbered
from rbserve.runtimes.endpoint_answers import ClickReading, EndpointAnswer, read
from rbserve.runtimes.endpoint_client import BASE_URL, EndpointClient
from rbserve.runtimes.endpoint_store import AnswerStore

MODEL = "gpt-3.5-turbo"
MAX_HISTORY = 20
TOP_LOGPROBS = 20  # the most that OpenAI gives

MOST_UNCLEAR = 20  # answers that are neither yes nor no, and at least half of all: more are not paid for
CLAIMED_S = 0.05  # between two looks whether another process has its answer

# Of a chat with two messages, as OpenAI counts: 4 a message for its role and marks, 3 before the answer.
FRAME_TOKENS = 11


def question(history: Sequence[str], candidate: str) -> str:
    """The paper's zero-shot user text; of the history, oldest first, the last MAX_HISTORY items."""
    seen = "".join(f"{numbered(place)} {text}" for place, text in enumerate(history[-MAX_HISTORY:], 1))
    return f"{HISTORY}{seen}{CANDIDATE} {candidate}{ANSWER}"


def messages(history: Sequence[str], candidate: str) -> list[dict[str, str]]:
    """The paper's zero-shot prompt as a chat."""
    return [
        {"role": "system", "content": INSTRUCTION},
        {"role": "user", "content": question(history, candidate)},
    ]


def approximate_tokens(text: str) -> int:
    """Tokens of a text, as a quarter of its UTF-8 bytes: right within some 20% for English."""
    return math.ceil(len(text.encode()) / 4)


@dataclass(frozen=True)
class CostEstimate:
    """What scoring would take: equal prompts are one request, and tokens and cost are of the requests still to make."""

    requests: int
    answered: int
    prompt_tokens: int
    completion_tokens: int
    usd: float


class UnclearAnswersError(RbserveError):
    """Too many answers are neither yes nor no: asking on would pay for scores of 0.5."""


class EndpointScorer:
    """Click probabilities from a chat endpoint, by at most `concurrency` requests at a time.

    `texts` are those of the item table's rows; `folder` keeps the answers, of any number of endpoints and models.
    `key`, `max_retries` and `timeout_s` are those of EndpointClient. For endpoints that refuse a parameter,
    `top_logprobs` 0 asks for no log-probabilities and `greedy` false for no temperature of 0; `max_completion_tokens`
    takes the place of `max_tokens` 1, which is also too little for a model that reasons first.
    Close it, or use it in a `with`; it is for one thread, and makes its own.

    `hard_answers` counts the rows scored from the text of the answer, `unclear` those whose answer is neither yes nor
    no (score 0.5, not kept on disk), `retries` the requests made again. Once there are MOST_UNCLEAR unclear answers,
    and they are at least half of the new ones, nothing more is asked.
    """

    def __init__(
        self,
        texts: Sequence[str],
        folder: Path,
        *,
        base_url: str = BASE_URL,
        model: str = MODEL,
        key: str = "",
        concurrency: int = 8,
        max_retries: int = 6,
        timeout_s: float = 60.0,
        top_logprobs: int = TOP_LOGPROBS,
        max_completion_tokens: int = 0,
        greedy: bool = True,
        sleep: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Raises UsageError for a setting that cannot be, or without httpx."""
        _require(concurrency >= 1, f"concurrency must be at least 1, not {concurrency}")
        _require(max_retries >= 0, f"retries must be 0 or more, not {max_retries}")
        _require(timeout_s > 0, f"the timeout must be more than 0 seconds, not {timeout_s}")
        _require(
            0 <= top_logprobs <= TOP_LOGPROBS,
            f"top_logprobs goes from 0 to {TOP_LOGPROBS}, not {top_logprobs}",
        )
        _require(
            max_completion_tokens >= 0,
            f"max_completion_tokens must be 0 or more, not {max_completion_tokens}",
        )
        self._texts = texts
        self._model = model
        self._concurrency = concurrency
        self._parameters = _parameters(top_logprobs, max_completion_tokens, greedy)
        self._answer_tokens = max(1, max_completion_tokens)
        self._client = EndpointClient(
            base_url, model, key,
            connections=concurrency, max_retries=max_retries, timeout_s=timeout_s, sleep=sleep, clock=clock,
        )  # fmt: skip
        self._answers = AnswerStore(folder)
        self._lock = Lock()
        self._new = self._new_unclear = 0
        self.hard_answers = self.unclear = 0

    def __enter__(self) -> EndpointScorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections and the kept answers."""
        self._client.close()
        self._answers.close()

    @property
    def retries(self) -> int:
        """Requests made again after a failure in passing."""
        return self._client.retries

    def score(self, request: Request) -> Scores:
        """Click probabilities float32[N]; raises as `score_rows`."""
        history, candidates = slate_of(request)
        histories = Ragged(
            np.tile(history, len(candidates)), np.arange(len(candidates) + 1, dtype=np.int64) * len(history)
        )
        return self.score_rows(histories, candidates)

    def score_anew(self, request: Request) -> Scores:
        """Click probabilities float32[N], every candidate asked for whatever is on disk: for measuring latency."""
        history, candidates = slate_of(request)
        return np.array([read(self.ask(history, item)).score for item in candidates.tolist()], np.float32)

    def score_rows(self, histories: Ragged, candidates: Items, progress: Progress = no_progress) -> Scores:
        """The score float32[R] of R (history, candidate) pairs; what is on disk is not asked again.

        Raises RbserveError as soon as one request is refused or given up, UnclearAnswersError after too many that are
        neither yes nor no, Interrupted after Ctrl-C. In each case nothing more is asked, and the answers to what is
        under way are still kept.
        """
        keys, missing = self._look_up(histories, candidates)
        self._ask_all(
            {key: (histories[row], candidates[row]) for key, row in missing.items()}, len(set(keys)), progress
        )
        readings = [self._reading(key) for key in keys]
        self.hard_answers += sum(reading.hard for reading in readings)
        self.unclear += sum(not reading.clear for reading in readings)
        return np.array([reading.score for reading in readings], np.float32)

    def estimate(
        self,
        histories: Ragged,
        candidates: Items,
        usd_per_million_prompt_tokens: float,
        usd_per_million_completion_tokens: float,
        count_tokens: Callable[[str], int] = approximate_tokens,
    ) -> CostEstimate:
        """What `score_rows` of the same would still take. Asks nothing.

        Prompt tokens of a request are count_tokens(system text) + count_tokens(user text) + FRAME_TOKENS; completion
        tokens one, or all `max_completion_tokens`.
        """
        keys, missing = self._look_up(histories, candidates)
        system = count_tokens(INSTRUCTION) + FRAME_TOKENS
        prompt = sum(
            system + count_tokens(question(self._texts_of(histories[row]), self._texts[candidates[row]]))
            for row in missing.values()
        )
        requests = len(missing)
        completion = requests * self._answer_tokens
        millionths = prompt * usd_per_million_prompt_tokens + completion * usd_per_million_completion_tokens
        return CostEstimate(requests, len(set(keys)) - requests, prompt, completion, millionths / 1e6)

    def ask(self, history: Items, candidate: int) -> EndpointAnswer:
        """One request, made whatever is on disk and kept nowhere: for measuring how long an answer takes.

        Raises RbserveError when it is refused, or given up after all retries.
        """
        return self._client.ask(self._body(history, candidate))

    def _look_up(self, histories: Ragged, candidates: Items) -> tuple[list[str], dict[str, int]]:
        """The key of each of R rows, and of every key without an answer one row that has it."""
        keys = [
            self._digest(self._body(histories[row], candidate)) for row, candidate in enumerate(candidates)
        ]
        rows = {key: row for row, key in enumerate(keys)}
        return keys, {key: row for key, row in rows.items() if self._answers.find(key) is None}

    def _reading(self, key: str) -> ClickReading:
        reading = self._answers.find(key)
        assert reading is not None  # it was asked for
        return reading

    def _digest(self, body: bytes) -> str:
        """What an answer is kept under: sha256 of base URL and request, which has model, messages and parameters."""
        return hashlib.sha256(self._client.base_url.encode() + b"\n" + body).hexdigest()

    def _body(self, history: Items, candidate: int) -> bytes:
        """The request for history int32[T] and a candidate."""
        chat = messages(self._texts_of(history), self._texts[candidate])
        return msgspec.json.encode({"model": self._model, "messages": chat, **self._parameters})

    def _texts_of(self, history: Items) -> list[str]:
        return [self._texts[item] for item in history[-MAX_HISTORY:].tolist()]

    def _ask_all(self, wanted: Mapping[str, tuple[Items, int]], total: int, progress: Progress) -> None:
        """Gets and keeps the answers of `wanted`, by key; `total` counts those that were there before as well."""
        if wanted:
            self._answers.prepare()
        before = total - len(wanted)
        progress(before, total, f"requests, {before:,} answered before")
        pool = ThreadPoolExecutor(self._concurrency, thread_name_prefix="asking")
        try:
            futures = [pool.submit(self._ask_and_keep, key, *pair) for key, pair in wanted.items()]
            for done, future in enumerate(as_completed(futures), before + 1):
                future.result()
                if not self._client.stop.is_set():
                    progress(done, total, f"requests, {self.retries:,} retries")
        except KeyboardInterrupt:
            raise Interrupted("stopped; the answers so far are kept", "the same command continues") from None
        finally:
            self._client.stop.set()  # ends the pauses of what failed and is under way
            pool.shutdown(cancel_futures=True)
            self._client.stop.clear()

    def _ask_and_keep(self, key: str, history: Items, candidate: int) -> None:
        """What a thread does. A failure stops the others: they end what is under way and begin nothing."""
        stop = self._client.stop
        while not self._answers.claim(key):  # another process asks for it
            if stop.wait(CLAIMED_S):
                return
        try:
            if not stop.is_set() and self._answers.find(key) is None:
                answer = self.ask(history, candidate)
                self._answers.add(key, answer)
                self._check_clear(answer)
        except Interrupted:
            return  # the cause is raised where it arose
        except BaseException:
            stop.set()
            raise
        finally:
            self._answers.release(key)

    def _check_clear(self, answer: EndpointAnswer) -> None:
        """Counts a new answer; UnclearAnswersError, once, where too many are neither yes nor no."""
        stop = self._client.stop
        with self._lock:
            self._new += 1
            self._new_unclear += not read(answer).clear
            new, unclear = self._new, self._new_unclear
            too_many = unclear >= MOST_UNCLEAR and 2 * unclear >= new and not stop.is_set()
            if too_many:  # here, so that no thread begins another request before the error is raised
                stop.set()
        if not too_many:
            return
        text = f"{self._client.shown(answer.text)!r}" if answer.text else "no text"
        ending = f", finish_reason {self._client.shown(answer.finish)}" if answer.finish else ""
        raise UnclearAnswersError(
            f"stopped: {unclear:,} of the first {new:,} answers of {self._model} are neither yes nor no (the last: "
            f"{text}{ending})",
            "a model that reasons before it answers needs room for that: --set max_completion_tokens=1000; "
            "else take a model that answers at once",
        )


def _parameters(top_logprobs: int, max_completion_tokens: int, greedy: bool) -> dict[str, object]:
    """The parameters of a request beside model and messages."""
    length = {"max_completion_tokens": max_completion_tokens} if max_completion_tokens else {"max_tokens": 1}
    temperature = {"temperature": 0} if greedy else {}
    logprobs = {"logprobs": True, "top_logprobs": top_logprobs} if top_logprobs else {}
    return {**length, **temperature, **logprobs}


def _require(holds: bool, message: str, hint: str | None = None) -> None:
    if not holds:
        raise UsageError(message, hint)
