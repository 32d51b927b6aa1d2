"""Reading what servers with OpenAI's API respond."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from typing import Any

from spacy_universalner.ty import Answer
from spacy_universalner.universal_ner.models.closing import find_close

# How servers say that an answer is not whole: a limit was reached, or a filter broke it off.
CUT = frozenset({"length", "max_tokens", "content_filter"})


class ResponseError(ValueError):
    """A response that promises an answer and holds none."""


def read_response(response: str, *, cut: bool) -> Answer:
    """Read the answer out of a response to `/completions` or `/chat/completions`.

    response (str): The response's JSON.
    cut (bool): Whether an answer ends where its JSON list or object closes.
    RETURNS (Answer): The answer, with its tokens where the server tells them. A model that wrote
        no text, such as one that refused or spent its tokens on thinking, gives one with an error.
    RAISES (ResponseError): It is not JSON, or not of the API's form.
    """
    try:
        choice = json.loads(response)["choices"][0]
        text = choice["text"] if "text" in choice else choice["message"]["content"]
        finish, tokens = choice.get("finish_reason"), choice.get("logprobs")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ResponseError(f"the response holds no answer: {response[:200]!r}") from error
    if not isinstance(text, str):
        return Answer("", error=f"the model wrote no text: {json.dumps(choice)[:200]}")
    finish = finish if isinstance(finish, str) else None
    if not text.strip() and finish in CUT:
        return Answer("", error=f"the model wrote no text before it was stopped by '{finish}'")
    # An escaped half of a surrogate pair could not be written to a file.
    text = text.encode("utf-8", "replace").decode("utf-8")
    close = find_close(text) if cut else None
    ends, logprobs = _align(_read_tokens(tokens), text[:close])
    return Answer(text[:close], ends, logprobs, complete=close is not None or finish not in CUT)


def _read_tokens(logprobs: Any) -> Iterator[tuple[bytes, float]]:
    """Each token's bytes and log-probability; nothing if the server's form is not known."""
    try:
        if logprobs.get("content") is not None:  # chat; llama.cpp for completions too
            for token in logprobs["content"]:
                raw = token.get("bytes")
                logprob = float(token["logprob"])
                yield token["token"].encode() if raw is None else bytes(raw), logprob
        else:
            for token, logprob in zip(logprobs["tokens"], logprobs["token_logprobs"], strict=True):
                yield token.encode(), float(logprob)
    except (LookupError, TypeError, ValueError, AttributeError):
        return


def _align(
    tokens: Iterable[tuple[bytes, float]], answer: str
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Find the tokens in the answer that they spell.

    tokens (Iterable[tuple[bytes, float]]): Bytes and log-probability of each. One may hold a part
        of a character; the last ones may go beyond the answer.
    answer (str): The answer.
    RETURNS (tuple[tuple[int, ...], tuple[float, ...]]): `ends` and `logprobs` of an `Answer`;
        empty if the tokens do not spell it.
    """
    decoder = codecs.getincrementaldecoder("utf8")("replace")
    spelled = ""
    ends: list[int] = []
    logprobs: list[float] = []
    for raw, logprob in tokens:
        if len(spelled) < len(answer):
            spelled += decoder.decode(raw)
            ends.append(min(len(spelled), len(answer)))
            logprobs.append(logprob)
    if spelled[: len(answer)] != answer:
        return (), ()
    return tuple(ends), tuple(logprobs)
