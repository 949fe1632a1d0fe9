"""The zero-shot recommender behind an OpenAI-compatible HTTP endpoint: the paper's GPT-3.5 row.

A request a candidate, an answer of one token, its log-probabilities the score (`read`). Answers cost money and time, so
each is on disk as soon as it is there: stopped work, however it was stopped, goes on where it ended.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from rbserve.core.errors import Interrupted, RbserveError, UsageError
from rbserve.core.types import Items, Progress, Scores, no_progress
from rbserve.data.columns import Ragged
from rbserve.models.prompts import ANSWER, CANDIDATE, HISTORY, INSTRUCTION, numbered
from rbserve.runtimes.endpoint_answers import NO_JSON, Answer, AnswerStore, decode_answer, error_message, read

if TYPE_CHECKING:
    import httpx

BASE_URL = "https://api.openai.com/v1"
MODEL = "gpt-3.5-turbo"

MAX_HISTORY = 20

TOP_LOGPROBS = 20  # the most that OpenAI gives
RETRIED = (429, 500, 502, 503, 504)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0  # between attempts, where the server does not say
MAX_WAIT_S = 300.0  # a server that asks for more is given up

MOST_UNCLEAR = 20  # answers that are neither yes nor no, and at least half of all: more are not paid for
LONG_KEY = 8  # characters: a shorter key may stand in any word, and is hidden only where it stands alone

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
class Estimate:
    """What scoring would take: equal prompts are one request, and tokens and cost are of the requests still to make."""

    requests: int
    answered: int
    prompt_tokens: int
    completion_tokens: int
    usd: float


class UnclearAnswersError(RbserveError):
    """Too many answers are neither yes nor no: asking on would pay for scores of 0.5."""


class EndpointScorer:
    """Click probabilities by asking a chat endpoint, at most `concurrency` requests at a time.

    `texts` are those of the item table's rows; `folder` keeps the answers, of any number of endpoints and models.
    `key` is sent, and never written or shown. A request that fails in passing (RETRIED, no connection, silence for
    `timeout_s`, an answer that is none) is made again, up to `max_retries` times. For endpoints that refuse a
    parameter, `top_logprobs` 0 asks for no log-probabilities and `greedy` false for no temperature of 0;
    `max_completion_tokens` takes the place of `max_tokens` 1, which is also too little for a model that reasons first.
    Close it, or use it in a `with`; it is for one thread, and makes its own.

    `hard_answers` counts the rows scored from the text of the answer, `unclear` those where neither yes nor no was
    found (score 0.5), `retries` the requests made again. Such an answer is not kept on disk. Once there are
    MOST_UNCLEAR of them, and they are at least half of the new answers, nothing more is asked.
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
        self._base_url = checked_url(base_url)
        self._model = model
        self._key = _checked_key(key)
        self._concurrency = concurrency
        self._max_retries = max_retries
        self._parameters = _parameters(top_logprobs, max_completion_tokens, greedy)
        self._stop = Event()
        self._sleep = sleep or self._stop.wait
        self._clock = clock
        self._answers = AnswerStore(folder / "answers.jsonl")
        self._http = _client(self._key, concurrency, timeout_s)
        self._lock = Lock()
        self._answer_tokens = max(1, max_completion_tokens)
        self._new = self._new_unclear = 0
        self.hard_answers = self.unclear = self.retries = 0

    def __enter__(self) -> EndpointScorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def score(self, history: Items, candidates: Items) -> Scores:
        """Click probabilities float32[N]; raises as `score_rows`."""
        histories = Ragged(
            np.tile(history, len(candidates)), np.arange(len(candidates) + 1, dtype=np.int64) * len(history)
        )
        return self.score_rows(histories, candidates)

    def score_anew(self, history: Items, candidates: Items) -> Scores:
        """Click probabilities float32[N], every candidate asked for whatever is on disk: for measuring latency."""
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
        readings = [self._answers.known[key] for key in keys]
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
    ) -> Estimate:
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
        return Estimate(requests, len(set(keys)) - requests, prompt, completion, millionths / 1e6)

    def ask(self, history: Items, candidate: int) -> Answer:
        """One request, made whatever is on disk and kept nowhere: for measuring how long an answer takes.

        Raises RbserveError when it is refused, or given up after all retries.
        """
        body = self._body(history, candidate)
        for attempt in range(self._max_retries + 1):
            try:
                return self._attempt(body)
            except _TemporaryError as failure:
                last = failure
            if attempt == self._max_retries or last.wait_s > MAX_WAIT_S:
                break
            self._pause(attempt, last.wait_s)
        wait = f"; it asks for a pause of {last.wait_s:,.0f} s" if last.wait_s else ""
        raise RbserveError(
            f"{self._url} gave no answer (attempts: {attempt + 1}): {last}{wait}",
            "the answers so far are kept: run the same again later, perhaps with a lower concurrency",
        )

    @property
    def _url(self) -> str:
        return f"{self._base_url}/chat/completions"

    def _look_up(self, histories: Ragged, candidates: Items) -> tuple[list[str], dict[str, int]]:
        """The key of each of R rows, and of every key without an answer one row that has it."""
        keys = [
            self._digest(self._body(histories[row], candidate)) for row, candidate in enumerate(candidates)
        ]
        return keys, {key: row for row, key in enumerate(keys) if key not in self._answers.known}

    def _digest(self, body: bytes) -> str:
        """What an answer is kept under: sha256 of base URL and request, which has model, messages and parameters."""
        return hashlib.sha256(self._base_url.encode() + b"\n" + body).hexdigest()

    def _body(self, history: Items, candidate: int) -> bytes:
        """The request for history int32[T] and a candidate."""
        chat = messages(self._texts_of(history), self._texts[candidate])
        return msgspec.json.encode({"model": self._model, "messages": chat, **self._parameters})

    def _texts_of(self, history: Items) -> list[str]:
        return [self._texts[item] for item in history[-MAX_HISTORY:].tolist()]

    def _ask_all(self, wanted: Mapping[str, tuple[Items, int]], total: int, progress: Progress) -> None:
        """Gets and keeps the answers of `wanted`, by key; `total` counts those that were there before as well."""
        if wanted:
            self._answers.require_writable()  # answers are paid for
        before = total - len(wanted)
        progress(before, total, f"requests, {before:,} answered before")
        pool = ThreadPoolExecutor(self._concurrency, thread_name_prefix="asking")
        try:
            asked = [pool.submit(self._ask_and_keep, key, *pair) for key, pair in wanted.items()]
            for done, future in enumerate(as_completed(asked), before + 1):
                future.result()
                if not self._stop.is_set():
                    progress(done, total, f"requests, {self.retries:,} retries")
        except KeyboardInterrupt:
            raise Interrupted("stopped; the answers so far are kept", "the same command continues") from None
        finally:
            self._stop.set()  # ends the pauses of what failed and is under way
            pool.shutdown(cancel_futures=True)
            self._stop.clear()

    def _ask_and_keep(self, key: str, history: Items, candidate: int) -> None:
        """What a thread does. A failure stops the others: they end what is under way and begin nothing."""
        if self._stop.is_set():
            return
        try:
            answer = self.ask(history, candidate)
            self._answers.add(key, answer)
            self._check_clear(answer)
        except Interrupted:
            return  # the cause is raised where it arose
        except BaseException:
            self._stop.set()
            raise

    def _check_clear(self, answer: Answer) -> None:
        """Counts a new answer; UnclearAnswersError where too many are neither yes nor no."""
        with self._lock:
            self._new += 1
            self._new_unclear += not read(answer).clear
            new, unclear = self._new, self._new_unclear
        if unclear < MOST_UNCLEAR or 2 * unclear < new:
            return
        text = f"{self._shown(answer.text)!r}" if answer.text else "no text"
        ending = f", finish_reason {self._shown(answer.finish)}" if answer.finish else ""
        raise UnclearAnswersError(
            f"stopped: {unclear:,} of the first {new:,} answers of {self._model} are neither yes nor no (the last: "
            f"{text}{ending})",
            "a model that reasons before it answers needs room for that: --set max_completion_tokens=1000; "
            "else take a model that answers at once",
        )

    def _pause(self, attempt: int, wait_s: float) -> None:
        """Waits twice as long every time, at least as long as was asked for, and up to a quarter more by chance."""
        with self._lock:
            self.retries += 1
        pause = max(wait_s, min(FIRST_PAUSE_S * 2**attempt, LONGEST_PAUSE_S))
        self._sleep(pause * random.uniform(1, 1.25))
        if self._stop.is_set():
            raise Interrupted("stopped; the answers so far are kept", "the same command continues")

    def _attempt(self, body: bytes) -> Answer:
        """One request; _TemporaryError for what may go better next time, RbserveError for what will not."""
        import httpx

        try:
            response = self._http.post(self._url, content=body)
        except httpx.RequestError as error:
            raise _TemporaryError(self._shown(str(error) or type(error).__name__)) from None
        said = self._shown(error_message(response.content))
        if response.status_code in RETRIED:
            wait_s = _wait_s(response.headers.get("retry-after"), self._clock())
            raise _TemporaryError(f"{response.status_code} {said}", wait_s)
        if response.status_code != 200:
            hint = HINTS.get(response.status_code, "check the base URL and the model's name")
            if response.status_code in (400, 422):
                hint = _refused_parameter(said) or hint
            raise RbserveError(f"{self._url} refuses {self._model}: {response.status_code} {said}", hint)
        try:
            return decode_answer(response.content)
        except NO_JSON as error:
            raise _TemporaryError(f"no chat completion ({error}): {said}") from None

    def _shown(self, text: str) -> str:
        """Foreign text as a short line, without the key, which a server may quote."""
        text = _without_key(text, self._key)
        line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
        return line if len(line) <= 300 else f"{line[:300]}…"


def _parameters(top_logprobs: int, max_completion_tokens: int, greedy: bool) -> dict[str, object]:
    """The parameters of a request beside model and messages."""
    length = {"max_completion_tokens": max_completion_tokens} if max_completion_tokens else {"max_tokens": 1}
    temperature = {"temperature": 0} if greedy else {}
    logprobs = {"logprobs": True, "top_logprobs": top_logprobs} if top_logprobs else {}
    return {**length, **temperature, **logprobs}


def _without_key(text: str, key: str) -> str:
    """Text with *** for the key: wherever a long one stands, and for a short one where it is a word of its own."""
    if len(key) >= LONG_KEY:
        return text.replace(key, "***")
    return re.sub(rf"(?<![\w-]){re.escape(key)}(?![\w-])", "***", text) if key else text


def _refused_parameter(message: str) -> str | None:
    """How to ask without a parameter that an endpoint's message refuses; None where it names none."""
    return next((hint for name, hint in PARAMETERS.items() if name in message), None)


PARAMETERS = {
    "max_completion_tokens": "train it with --set max_completion_tokens=1; 1000 for a model that reasons first",
    "max_tokens": "train it with --set max_completion_tokens=1; 1000 for a model that reasons first",
    "temperature": "train it with --set greedy=false, which sends no temperature",
    "logprobs": "train it with --set top_logprobs=0, which asks for no log-probabilities",
}
HINTS = {
    400: "see what the endpoint's message asks for; one that gives no log-probabilities takes top_logprobs 0",
    401: "check the API key, and that it belongs to this base URL",
    403: "check what the API key may do, and the model's name",
    404: "check the base URL (most end in /v1) and the model's name",
}


class _TemporaryError(Exception):
    """A failure that may pass; `wait_s` is how long the server asks to wait."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


def _wait_s(retry_after: str | None, now_s: float) -> float:
    """The seconds of a Retry-After header, a number or an HTTP date; 0 when it is neither."""
    if retry_after is None:
        return 0.0
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - now_s
        except ValueError:
            return 0.0
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0


def checked_url(base_url: str) -> str:
    """The base URL without a slash at its end."""
    _require("@" not in base_url, "the base URL holds a name or password", "give the API key instead")
    host = r"(\[[0-9a-fA-F:.]+\]|[^\s/?#:\[\]]+)(:\d{1,5})?"
    plain = re.fullmatch(rf"https?://{host}(/[^\s?#]*)?", base_url)
    _require(plain is not None, f"not a base URL: {base_url!r}", f"for example {BASE_URL}")
    return base_url.rstrip("/")


def _checked_key(key: str) -> str:
    """The key as it can stand in a header. The message does not quote it."""
    key = key.strip()
    _require(
        key.isascii() and key.isprintable() and " " not in key, "the API key has characters that no key has"
    )
    return key


def _require(holds: bool, message: str, hint: str | None = None) -> None:
    if not holds:
        raise UsageError(message, hint)


def _client(key: str, connections: int, timeout_s: float) -> httpx.Client:
    try:
        import httpx
    except ImportError:
        raise UsageError(
            "an endpoint needs httpx, which is not installed", "pip install 'rbserve[api]'"
        ) from None
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    return httpx.Client(headers=headers, timeout=timeout_s, limits=limits)
