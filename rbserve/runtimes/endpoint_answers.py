"""What an endpoint answers: the JSON of a chat completion, and the click probability that is read from it."""

from __future__ import annotations

import math
import re
from typing import Annotated, NamedTuple

import msgspec

NO_JSON = (ValueError, RecursionError)  # what msgspec raises: malformed or of another shape; nested too deep


class EndpointAnswer(msgspec.Struct, frozen=True):
    """The text of an answer and the likeliest first tokens with their log-probabilities, None if it has none.

    `finish` is the reason for the answer's end ("stop", "length"), None if the endpoint gives none.
    """

    text: str
    logprobs: list[tuple[str, float]] | None
    finish: str | None = None


class ClickReading(NamedTuple):
    """The click probability of an answer; `hard`: read from its text, without log-probabilities; `clear`: yes or no."""

    score: float
    hard: bool
    clear: bool


def read(answer: EndpointAnswer) -> ClickReading:
    """P(yes) / (P(yes) + P(no)), the paper's equation 6, each over all ways to write the word with case and spaces.

    An unlisted token is no likelier than the least likely listed one, nor than all that the listed ones leave of 1. A
    word of which no spelling is listed is given the smaller of these bounds: the score errs towards 0.5, and never
    past it. Neither word listed: 0.5. No log-probabilities: 1, 0 or 0.5 for a text that begins with yes, no or neither.
    """
    if answer.logprobs is None:
        begins = re.match(r"\W*(yes|no)\b", answer.text, re.IGNORECASE)
        word = begins[1].lower() if begins else None
        return ClickReading({"yes": 1.0, "no": 0.0, None: 0.5}[word], hard=True, clear=word is not None)
    probabilities = [(token, math.exp(min(logprob, 0.0))) for token, logprob in answer.logprobs]
    yes, no = (sum(p for token, p in probabilities if _is(word, token)) for word in ("yes", "no"))
    if yes + no == 0:
        return ClickReading(0.5, hard=False, clear=False)
    listed = [p for _, p in probabilities]
    unlisted = min(*listed, max(0.0, 1 - sum(listed)))
    yes, no = yes or unlisted, no or unlisted
    return ClickReading(yes / (yes + no), hard=False, clear=True)


def _is(word: str, token: str) -> bool:
    """Whether a token is the word; some servers keep a tokenizer's mark of a space, ▁ or Ġ."""
    return token.strip(" \t\r\n▁Ġ").lower() == word


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
    finish_reason: str | None = None


class _Completion(msgspec.Struct):
    choices: Annotated[list[_Choice], msgspec.Meta(min_length=1)]


def decode_answer(content: bytes) -> EndpointAnswer:
    """The answer in a chat completion; one of NO_JSON when it is none."""
    choice = msgspec.json.decode(content, type=_Completion).choices[0]
    text = choice.message.content or ""
    if choice.logprobs is None or not choice.logprobs.content:
        return EndpointAnswer(text, None, choice.finish_reason)
    place = choice.logprobs.content[0]
    listed = [(other.token, other.logprob) for other in place.top_logprobs or []]
    if all(token != place.token for token, _ in listed):
        listed.append((place.token, place.logprob))
    return EndpointAnswer(text, listed, choice.finish_reason)


def error_message(content: bytes) -> str:
    """The message of a failure: `error.message`, `error`, `message` or `detail` of its JSON, else its text."""
    text = content.decode(errors="replace")
    try:
        message = msgspec.json.decode(content)
    except NO_JSON:
        return text
    for name in ("error", "message", "detail"):
        if isinstance(message, dict) and name in message:
            message = message[name]
    return message if isinstance(message, str) else text
