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
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec
import numpy as np

from rbserve.core.columns import Ragged
from rbserve.core.errors import Interrupted, RbserveError, UsageError
from rbserve.core.types import Items, Progress, Scores, no_progress
from rbserve.models.prompts import ANSWER, CANDIDATE, HISTORY, INSTRUCTION, numbered

if TYPE_CHECKING:
    import httpx

BASE_URL = "https://api.openai.com/v1"
MODEL = "gpt-3.5-turbo"

MAX_HISTORY = 20

TOP_LOGPROBS = 20  # the most that OpenAI gives
RETRIED = (429, 500, 502, 503, 504)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0  # between attempts, where the server does not say
MAX_WAIT_S = 300.0  # a server that asks for more is given up

NO_JSON = (ValueError, RecursionError)  # what msgspec raises: malformed or of another shape; nested too deep

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


class Answer(msgspec.Struct, frozen=True):
    """What the endpoint said: the text, and the likeliest first tokens with their log-probabilities, if it gave any."""

    text: str
    logprobs: list[tuple[str, float]] | None


class Reading(NamedTuple):
    """A click probability; `hard`: from the text, for want of log-probabilities; `clear`: yes or no was found."""

    score: float
    hard: bool
    clear: bool


def read(answer: Answer) -> Reading:
    """P(yes) / (P(yes) + P(no)), the paper's equation 6, each over all ways to write the word with case and spaces.

    An unlisted token is no likelier than the least likely listed one, nor than all that the listed ones leave of 1. A
    word of which no spelling is listed is given the smaller of these bounds: the score errs towards 0.5, and never
    past it. Neither word listed: 0.5. No log-probabilities: 1, 0 or 0.5 for a text that begins with yes, no or neither.
    """
    if answer.logprobs is None:
        begins = re.match(r"\W*(yes|no)\b", answer.text, re.IGNORECASE)
        word = begins[1].lower() if begins else None
        return Reading({"yes": 1.0, "no": 0.0, None: 0.5}[word], hard=True, clear=word is not None)
    probabilities = [(token, math.exp(min(logprob, 0.0))) for token, logprob in answer.logprobs]
    yes, no = (sum(p for token, p in probabilities if _is(word, token)) for word in ("yes", "no"))
    if yes + no == 0:
        return Reading(0.5, hard=False, clear=False)
    listed = [p for _, p in probabilities]
    unlisted = min(*listed, max(0.0, 1 - sum(listed)))
    yes, no = yes or unlisted, no or unlisted
    return Reading(yes / (yes + no), hard=False, clear=True)


def _is(word: str, token: str) -> bool:
    """Some servers give a tokenizer's own marks of a space, ▁ or Ġ."""
    return token.strip(" \t\r\n▁Ġ").lower() == word


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


class EndpointScorer:
    """Click probabilities by asking a chat endpoint, at most `concurrency` requests at a time.

    `texts` are those of the item table's rows; `folder` keeps the answers, of any number of endpoints and models.
    `key` is sent, and never written or shown. A request that fails in passing (RETRIED, no connection, silence for
    `timeout_s`, an answer that is none) is made again, up to `max_retries` times. `top_logprobs` 0 asks for none, for
    endpoints that refuse them. Close it, or use it in a `with`; it is for one thread, and makes its own.

    `hard_answers` counts the rows scored from the text of the answer, `unclear` those where neither yes nor no was
    found (score 0.5), `retries` the requests made again.
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
        self._texts = texts
        self._base_url = checked_url(base_url)
        self._model = model
        self._key = _checked_key(key)
        self._concurrency = concurrency
        self._max_retries = max_retries
        self._top_logprobs = top_logprobs
        self._stop = Event()
        self._sleep = sleep or self._stop.wait
        self._clock = clock
        self._answers = _Store(folder / "answers.jsonl")
        self._http = _client(self._key, concurrency, timeout_s)
        self._lock = Lock()
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

        Raises RbserveError as soon as one request is refused or given up, Interrupted after Ctrl-C. Either way nothing
        more is asked, and the answers to what is under way are still kept.
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

        Prompt tokens of a request are count_tokens(system text) + count_tokens(user text) + FRAME_TOKENS, completion
        tokens one.
        """
        keys, missing = self._look_up(histories, candidates)
        system = count_tokens(INSTRUCTION) + FRAME_TOKENS
        prompt = sum(
            system + count_tokens(question(self._texts_of(histories[row]), self._texts[candidates[row]]))
            for row in missing.values()
        )
        requests = len(missing)
        millionths = prompt * usd_per_million_prompt_tokens + requests * usd_per_million_completion_tokens
        return Estimate(requests, len(set(keys)) - requests, prompt, requests, millionths / 1e6)

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
        wanted = {"logprobs": True, "top_logprobs": self._top_logprobs} if self._top_logprobs else {}
        chat = messages(self._texts_of(history), self._texts[candidate])
        request = {"model": self._model, "messages": chat, "max_tokens": 1, "temperature": 0, **wanted}
        return msgspec.json.encode(request)

    def _texts_of(self, history: Items) -> list[str]:
        return [self._texts[item] for item in history[-MAX_HISTORY:].tolist()]

    def _ask_all(self, wanted: Mapping[str, tuple[Items, int]], total: int, progress: Progress) -> None:
        """Gets and keeps the answers of `wanted`, by key; `total` counts those that were there before as well."""
        before = total - len(wanted)
        progress(before, total, f"{before:,} answered before")
        pool = ThreadPoolExecutor(self._concurrency, thread_name_prefix="asking")
        try:
            asked = [pool.submit(self._ask_and_keep, key, *pair) for key, pair in wanted.items()]
            for done, future in enumerate(as_completed(asked), before + 1):
                future.result()
                if not self._stop.is_set():
                    progress(done, total, f"{self.retries:,} retries")
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
            self._answers.add(key, self.ask(history, candidate))
        except Interrupted:
            return  # the cause is raised where it arose
        except BaseException:
            self._stop.set()
            raise

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
        said = self._shown(_message(response.content))
        if response.status_code in RETRIED:
            wait_s = _wait_s(response.headers.get("retry-after"), self._clock())
            raise _TemporaryError(f"{response.status_code} {said}", wait_s)
        if response.status_code != 200:
            hint = HINTS.get(response.status_code, "check the base URL and the model's name")
            raise RbserveError(f"{self._url} refuses {self._model}: {response.status_code} {said}", hint)
        try:
            return _decoded(response.content)
        except NO_JSON as error:
            raise _TemporaryError(f"no chat completion ({error}): {said}") from None

    def _shown(self, text: str) -> str:
        """Foreign text as a short line, without the key, which a server may quote."""
        if self._key:
            text = text.replace(self._key, "***")
        line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
        return line if len(line) <= 300 else f"{line[:300]}…"


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


class _Line(msgspec.Struct, frozen=True):
    key: str
    answer: Answer


class _Store:
    """Answers on disk, a line of JSON each, and what they read as in memory.

    A line is one write at the end of the file, so a killed process leaves at most a torn last line. It is ended before
    the first line of the next process, and reads as no answer, as does any other line that is none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._torn = False
        self.known: dict[str, Reading] = {}
        if path.exists():
            self._load()

    def add(self, key: str, answer: Answer) -> None:
        """Keeps an answer; returns when it is written."""
        line = msgspec.json.encode(_Line(key, answer)) + b"\n"
        with self._lock:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab", buffering=0) as file:
                data = b"\n" + line if self._torn else line
                self._torn = file.write(data) < len(data)
            if self._torn:
                raise RbserveError(
                    f"cannot keep an answer in {self._path}", "free the disk, then run the same again"
                )
            self.known[key] = read(answer)

    def _load(self) -> None:
        decoder = msgspec.json.Decoder(_Line)
        with self._path.open("rb") as file:
            for data in file:
                self._torn = not data.endswith(b"\n")
                try:
                    line = decoder.decode(data)
                except NO_JSON:
                    continue
                self.known[line.key] = read(line.answer)


class _Token(msgspec.Struct):
    token: str
    logprob: float


class _Place(_Token):
    top_logprobs: list[_Token] | None = None


class _LogProbs(msgspec.Struct):
    content: list[_Place] | None = None


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    logprobs: _LogProbs | None = None


class _Completion(msgspec.Struct):
    choices: Annotated[list[_Choice], msgspec.Meta(min_length=1)]


def _decoded(content: bytes) -> Answer:
    """The answer in a chat completion; one of NO_JSON when it is none."""
    choice = msgspec.json.decode(content, type=_Completion).choices[0]
    text = choice.message.content or ""
    if choice.logprobs is None or not choice.logprobs.content:
        return Answer(text, None)
    place = choice.logprobs.content[0]
    listed = [(other.token, other.logprob) for other in place.top_logprobs or []]
    if all(token != place.token for token, _ in listed):
        listed.append((place.token, place.logprob))
    return Answer(text, listed)


def _message(content: bytes) -> str:
    """What a server says of a failure: OpenAI's error.message or one of its likes, else the text itself."""
    text = content.decode(errors="replace")
    try:
        found = msgspec.json.decode(content)
    except NO_JSON:
        return text
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and name in found:
            found = found[name]
    return found if isinstance(found, str) else text


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
