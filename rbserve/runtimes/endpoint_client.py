"""HTTP requests to an OpenAI-compatible chat endpoint: made again while a failure may pass, else refused with a hint.

The loop of attempts is written here: a pause must end at once when another thread is refused or Ctrl-C is pressed, and
be as long as the server asks; a retry library says that in no fewer lines (docs/decisions.md).
"""

from __future__ import annotations

import math
import random
import re
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from threading import Event, Lock
from typing import TYPE_CHECKING

from rbserve.core.errors import Interrupted, RbserveError, UsageError
from rbserve.runtimes.endpoint_answers import NO_JSON, EndpointAnswer, decode_answer, error_message

if TYPE_CHECKING:
    import httpx

BASE_URL = "https://api.openai.com/v1"

RETRIED = (429, 500, 502, 503, 504)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0  # between attempts, where the server does not say
MAX_WAIT_S = 300.0  # a server that asks for a longer pause is given up

LONG_KEY = 8  # characters: a shorter key may stand in any word, and is hidden only where it stands alone
LONGEST_QUOTE = 300  # characters of a server's message

PARAMETERS = {
    "max_completion_tokens": "train it with --set max_completion_tokens=1; 1000 for a model that reasons first",
    "max_tokens": "train it with --set max_completion_tokens=1; 1000 for a model that reasons first",
    "temperature": "train it with --set greedy=false, which sends no temperature",
    "logprobs": "train it with --set top_logprobs=0, which asks for no log-probabilities",
}
"""What to do about a parameter that an endpoint's message refuses."""
HINTS = {
    400: "see what the endpoint's message asks for; one that gives no log-probabilities takes top_logprobs 0",
    401: "check the API key, and that it belongs to this base URL",
    403: "check what the API key may do, and the model's name",
    404: "check the base URL (most end in /v1) and the model's name",
}


class EndpointClient:
    """Asks one model behind an endpoint; safe for threads.

    A request that fails in passing (a status of RETRIED, no connection, silence for `timeout_s`, a reply that is no
    chat completion) is made again, up to `max_retries` times; `retries` counts those. Setting `stop` ends all pauses.
    `key` is sent, and never written or shown.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        key: str,
        *,
        connections: int,
        max_retries: int,
        timeout_s: float,
        sleep: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Raises UsageError for a base URL or key that cannot be one, or without httpx."""
        self.base_url = checked_url(base_url)
        self.stop = Event()
        self.retries = 0
        self._url = f"{self.base_url}/chat/completions"
        self._model = model
        self._key = _checked_key(key)
        self._max_retries = max_retries
        self._sleep = sleep or self.stop.wait
        self._clock = clock
        self._http = _http_client(self._key, connections, timeout_s)
        self._lock = Lock()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def ask(self, body: bytes) -> EndpointAnswer:
        """The answer to one request, after as many attempts as it takes.

        Raises RbserveError when it is refused, or given up after all retries; Interrupted in a pause that `stop` ends.
        """
        attempt = 1
        while True:
            try:
                return self._attempt(body)
            except _TemporaryError as failure:
                if attempt > self._max_retries or failure.wait_s > MAX_WAIT_S:
                    wait = f"; it asks for a pause of {failure.wait_s:,.0f} s" if failure.wait_s else ""
                    raise RbserveError(
                        f"{self._url} gave no answer (attempts: {attempt}): {failure}{wait}",
                        "the answers so far are kept: run the same again later, perhaps with a lower concurrency",
                    ) from None
                self._pause(attempt, failure.wait_s)
            attempt += 1

    def shown(self, text: str) -> str:
        """Foreign text as a short line, without the key, which a server may quote."""
        text = _without_key(text, self._key)
        line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
        return line if len(line) <= LONGEST_QUOTE else f"{line[:LONGEST_QUOTE]}…"

    def _pause(self, attempt: int, wait_s: float) -> None:
        """Waits twice as long each time and at least `wait_s`, plus up to a quarter by chance."""
        with self._lock:
            self.retries += 1
        pause = max(wait_s, min(FIRST_PAUSE_S * 2 ** (attempt - 1), LONGEST_PAUSE_S))
        self._sleep(pause * random.uniform(1, 1.25))
        if self.stop.is_set():
            raise Interrupted("stopped; the answers so far are kept", "the same command continues")

    def _attempt(self, body: bytes) -> EndpointAnswer:
        """One request; _TemporaryError for what may go better next time, RbserveError for what will not."""
        import httpx

        try:
            response = self._http.post(self._url, content=body)
        except httpx.RequestError as error:
            raise _TemporaryError(self.shown(str(error) or type(error).__name__)) from None
        message = self.shown(error_message(response.content))
        if response.status_code in RETRIED:
            wait_s = _wait_s(response.headers.get("retry-after"), self._clock())
            raise _TemporaryError(f"{response.status_code} {message}", wait_s)
        if response.status_code != 200:
            hint = _hint(response.status_code, message)
            raise RbserveError(f"{self._url} refuses {self._model}: {response.status_code} {message}", hint)
        try:
            return decode_answer(response.content)
        except NO_JSON as error:
            raise _TemporaryError(f"no chat completion ({error}): {message}") from None


class _TemporaryError(Exception):
    """A failure that may pass; `wait_s` is how long the server asks to wait."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


def _hint(status: int, message: str) -> str:
    """What to do about a refusal; a refused parameter is named in the endpoint's message."""
    if status in (400, 422):
        for name, hint in PARAMETERS.items():
            if name in message:
                return hint
    return HINTS.get(status, "check the base URL and the model's name")


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


def _without_key(text: str, key: str) -> str:
    """Text with *** for the key: wherever a long one stands, and for a short one where it is a word of its own."""
    if len(key) >= LONG_KEY:
        return text.replace(key, "***")
    return re.sub(rf"(?<![\w-]){re.escape(key)}(?![\w-])", "***", text) if key else text


def checked_url(base_url: str) -> str:
    """The base URL without a slash at its end; UsageError for one that cannot be asked or has a password."""
    if "@" in base_url:
        raise UsageError("the base URL holds a name or password", "give the API key instead")
    host = r"(\[[0-9a-fA-F:.]+\]|[^\s/?#:\[\]]+)(:\d{1,5})?"
    if not re.fullmatch(rf"https?://{host}(/[^\s?#]*)?", base_url):
        raise UsageError(f"not a base URL: {base_url!r}", f"for example {BASE_URL}")
    return base_url.rstrip("/")


def _checked_key(key: str) -> str:
    """The key as it can stand in a header. The message does not quote it."""
    key = key.strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError("the API key has characters that no key has")
    return key


def _http_client(key: str, connections: int, timeout_s: float) -> httpx.Client:
    try:
        import httpx
    except ImportError:
        raise UsageError(
            "an endpoint needs httpx, which is not installed", "pip install 'rbserve[api]'"
        ) from None
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    return httpx.Client(headers=headers, timeout=timeout_s, limits=limits)
