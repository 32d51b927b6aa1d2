"""`spacy-universalner.OpenAI.v1`: a language model behind any server that speaks OpenAI's API.

vLLM, llama.cpp, Ollama and most vendors do. Requests go to `base_url` and nowhere else: no model
list is asked for, redirects are not followed. The client adds headers with its version and the
platform to each request, and `OPENAI_ORG_ID`, `OPENAI_PROJECT_ID` and `OPENAI_CUSTOM_HEADERS` if
they are set; `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` hold as everywhere.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache, partial
from importlib.util import find_spec
from random import uniform
from threading import Thread
from typing import TYPE_CHECKING, Any, Iterable, Literal  # noqa: UP035 (spacy-llm compares these)

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from spacy_universalner.pretrained import resolve, unavailable
from spacy_universalner.ty import Answer, Prompt
from spacy_universalner.universal_ner.models.responses import ResponseError, read_response
from spacy_universalner.universal_ner.prompt import END
from spacy_universalner.universal_ner.tokenization import encode_pieces, encode_plain

if TYPE_CHECKING:
    from openai import AsyncOpenAI

# Prompts that may be asked or answered ahead of the document that is waited for, as a multiple of
# the concurrency: a slow answer holds up the ones behind it, but not the server.
LOOK_AHEAD = 4
# Statuses that may pass, beside all of 500 and above.
RETRIED = frozenset({408, 409, 425, 429})
# Seconds. A server that asks for more has run out of something that waiting will not bring back.
LONGEST_WAIT = 120.0


def make_openai_model(
    name: str,
    base_url: str,
    api: Literal["completions", "chat"] = "completions",
    api_key_env: str | None = "OPENAI_API_KEY",
    system: str | None = None,
    tokenizer: str | None = None,
    context_length: int | None = None,
    max_new_tokens: int | None = 256,
    temperature: float | None = 0.0,
    stop: Sequence[str] = (END,),
    logprobs: bool = True,
    extra_body: Mapping[str, Any] | None = None,
    concurrency: int = 8,
    max_tries: int = 5,
    interval: float = 1.0,
    max_request_time: float = 60.0,
) -> OpenAIModel:
    """Build a language model that a server runs (spacy-llm: `@llm_models`).

    name (str): The model's name on the server.
    base_url (str): Where the API is, such as "http://localhost:8000/v1".
    api (str): "completions" sends the exact prompt, as the UniversalNER models were trained on
        it; "chat" sends it as one user message, which the server wraps in the model's own chat
        template: for general instruction-following models.
    api_key_env (str | None): Environment variable with the API key. Where it is not set, or None,
        the word "none" is sent for one.
    system (str | None): System message, for "chat".
    tokenizer (str | None): Hub id or folder of the model's tokenizer. Given one, "completions"
        sends token ids (vLLM and llama.cpp take them), so that nothing in a text can pass for an
        end-of-turn token, and windows are measured in the model's tokens.
    context_length (int | None): Tokens that prompt and answer may have together.
    max_new_tokens (int | None): The longest answer, in tokens. None, here and below, leaves the
        field out of the request.
    temperature (float | None): 0 for greedy decoding.
    stop (Sequence[str]): Strings that end an answer, for servers that do not know the model's end
        token. Some vendors' models refuse the field: leave it empty.
    logprobs (bool): Whether to ask for token log-probabilities, which become scores.
    extra_body (Mapping[str, Any] | None): Further fields of the request, such as `{"seed": 1}`.
    concurrency (int): Requests in flight at once, in each process.
    max_tries (int): How often a request is sent at most.
    interval (float): Seconds before the second try, doubled for each further one, with jitter.
        A Retry-After of the server comes first.
    max_request_time (float): Seconds after which a try counts as failed.
    RETURNS (OpenAIModel): The model; the server is not contacted before the first prompt.
    RAISES (ImportError): The extra `openai` is not installed.
    RAISES (ValueError): A setting is out of its range.
    """
    if find_spec("openai") is None:
        raise ImportError(
            "spacy-universalner.OpenAI.v1 needs the package openai. Install it with "
            "`pip install 'spacy-universalner[openai]'`."
        )
    build = OpenAIModel if tokenizer is None else partial(TokenizingOpenAIModel, tokenizer)
    return build(
        name=name,
        base_url=base_url,
        api=api,
        api_key_env=api_key_env,
        system=system,
        context_length=context_length,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        stop=tuple(stop),
        logprobs=logprobs,
        extra_body=dict(extra_body or {}),
        concurrency=concurrency,
        max_tries=max_tries,
        interval=interval,
        max_request_time=max_request_time,
    )


@dataclass(kw_only=True)
class OpenAIModel:
    """A model on a server: nothing but settings, so that it can be pickled.

    See `make_openai_model` for what they mean.
    """

    name: str
    base_url: str
    api: Literal["completions", "chat"]
    api_key_env: str | None
    system: str | None
    context_length: int | None
    max_new_tokens: int | None
    temperature: float | None
    stop: tuple[str, ...]
    logprobs: bool
    extra_body: dict[str, Any]
    concurrency: int
    max_tries: int
    interval: float
    max_request_time: float

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError(
                f"base_url = '{self.base_url}': expected the address of the API, such as "
                "'http://localhost:8000/v1'."
            )
        if self.api not in ("completions", "chat"):
            raise ValueError(f"Unknown api '{self.api}'. Expected one of: completions, chat.")
        if self.system is not None and self.api != "chat":
            raise ValueError(
                "A system message needs api = 'chat': 'completions' has no place for it."
            )
        for setting in ("concurrency", "max_tries", "interval", "max_request_time"):
            value = getattr(self, setting)
            if value <= 0:
                raise ValueError(f"{setting} = {value}: expected more than 0.")

    @property
    def identity(self) -> str:
        """What is sent beside the prompt, and where to."""
        sent = {"base_url": self.base_url, **self._body(""), **self.extra_body}
        return json.dumps(sent, sort_keys=True, ensure_ascii=False)

    def __call__(self, prompts: Iterable[Iterable[Any]]) -> Iterable[Iterable[Any]]:
        """Answer documents' prompts, in order.

        prompts (Iterable[Iterable[str]]): The prompts of each document.
        YIELDS (list[str]): The answers for each.
        RAISES (RuntimeError): A prompt got no answer.
        """
        for answers in self.answer(list(document) for document in prompts):
            for answer in answers:
                if answer.error is not None:
                    raise RuntimeError(answer.error)
            yield [answer.text for answer in answers]

    def answer(self, prompts: Iterable[Sequence[str]]) -> Iterator[list[Answer]]:
        """Answer documents' prompts, in order; a prompt that fails gets an answer that says why.

        prompts (Iterable[Sequence[str]]): The prompts of each document; read as far ahead as
            requests can be under way.
        YIELDS (list[Answer]): The answers for each.
        """
        loop = _background_loop(os.getpid())
        slots = asyncio.Semaphore(self.concurrency)
        waiting: deque[list[Future[Answer]]] = deque()
        try:
            for document in prompts:
                asked = (self._ask(prompt, slots) for prompt in document)
                waiting.append([asyncio.run_coroutine_threadsafe(each, loop) for each in asked])
                while sum(map(len, waiting)) > LOOK_AHEAD * self.concurrency:
                    yield [future.result() for future in waiting[0]]
                    waiting.popleft()
            while waiting:
                yield [future.result() for future in waiting[0]]
                waiting.popleft()
        finally:  # whoever stops listening also stops the requests
            for futures in waiting:
                for future in futures:
                    future.cancel()

    async def _ask(self, prompt: str, slots: asyncio.Semaphore) -> Answer:
        async with slots:
            tries = 1
            while True:
                try:
                    return await asyncio.wait_for(self._request(prompt), self.max_request_time)
                except Exception as error:  # whatever goes wrong is this prompt's alone
                    wait = _wait_after(error, tries, self.interval)
                    if wait is None or tries == self.max_tries:
                        return Answer("", error=self._explain(error, tries))
                await asyncio.sleep(wait)
                tries += 1

    async def _request(self, prompt: str) -> Answer:
        key = os.environ.get(self.api_key_env) if self.api_key_env else None
        client = _client(asyncio.get_running_loop(), self.base_url, key)
        api = client.chat.completions if self.api == "chat" else client.completions
        # The raw response: servers write log-probabilities in several ways.
        create: Any = api.with_raw_response.create
        response = await create(**self._body(prompt), extra_body=self.extra_body)
        return read_response(response.http_response.text, cut=isinstance(prompt, Prompt))

    def _body(self, prompt: str) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.name,
            "max_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "stop": list(self.stop) or None,
        }
        if self.api == "chat":
            system = [] if self.system is None else [{"role": "system", "content": self.system}]
            body["messages"] = [*system, {"role": "user", "content": str(prompt)}]
            body["logprobs"] = self.logprobs or None
        else:
            body["prompt"] = self._encode(prompt)
            body["logprobs"] = 1 if self.logprobs else None
        return {name: value for name, value in body.items() if value is not None}

    def _encode(self, prompt: str) -> str | list[int]:
        if isinstance(prompt, Prompt):
            data = (piece.text for piece in prompt.pieces if piece.kind == "data")
            if any(END in text for text in data):
                warnings.warn(
                    f"A text or label contains '{END}', which the server may take for the end of "
                    "a turn. Set `tokenizer` to the model's tokenizer to send token ids instead.",
                    stacklevel=2,
                )
        return str(prompt)

    def _explain(self, error: Exception, tries: int) -> str:
        import openai

        reason = f"{error}: {error.__cause__}" if error.__cause__ else str(error)
        if isinstance(error, asyncio.TimeoutError):
            reason = f"nothing came within max_request_time = {self.max_request_time:g} s"
        elif isinstance(error, openai.APIStatusError):
            reason = f"HTTP {error.status_code}, {error.response.text[:500]}"
            if error.status_code == 401 and self.api_key_env is not None:
                reason += f" (the key is read from the environment variable {self.api_key_env})"
        return f"No answer from '{self.name}' at {self.base_url}, tried {tries} x: {reason}"


@dataclass
class TokenizingOpenAIModel(OpenAIModel):
    """The same with the model's tokenizer: token ids are sent, windows measured in tokens."""

    tokenizer: str

    @property
    def identity(self) -> str:
        """The same; token ids may be read differently from the characters that they stand for."""
        return f"{super().identity}, tokens of {self.tokenizer}"

    def token_offsets(self, text: str) -> list[tuple[int, int]]:
        """Character offsets of the model's tokens of a text, without special tokens."""
        return [(start, end) for _, start, end in encode_plain(_tokenizer(self.tokenizer), text)]

    def _encode(self, prompt: str) -> str | list[int]:
        if isinstance(prompt, Prompt):
            return encode_pieces(_tokenizer(self.tokenizer), prompt.pieces).ids
        return prompt


def _wait_after(error: Exception, tries: int, interval: float) -> float | None:
    """Seconds to wait before another try; None if it would fail as well."""
    import openai

    asked = 0.0
    if isinstance(error, openai.APIStatusError):
        if error.status_code not in RETRIED and error.status_code < 500:
            return None
        asked = _retry_after(error.response.headers.get("retry-after", ""))
    elif not isinstance(error, (openai.APIConnectionError, asyncio.TimeoutError, ResponseError)):
        return None
    if asked > LONGEST_WAIT:
        return None
    if asked > 0:
        return asked + uniform(0, interval)
    return min(interval * 2.0 ** min(tries - 1, 64), LONGEST_WAIT) * uniform(0.5, 1)


def _retry_after(value: str) -> float:
    """The seconds that a Retry-After header asks for, written as a number or as a date."""
    try:
        return float(value)
    except ValueError:
        pass
    try:
        return parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0


@cache
def _background_loop(pid: int) -> asyncio.AbstractEventLoop:
    """The process's event loop, on a thread of its own: so it runs beside a notebook's."""
    loop = asyncio.new_event_loop()
    Thread(target=loop.run_forever, name="spacy-universalner requests", daemon=True).start()
    return loop


@cache
def _client(loop: asyncio.AbstractEventLoop, base_url: str, key: str | None) -> AsyncOpenAI:
    """The loop's client: connections belong to a loop and do not survive a fork.

    Tries and their time are counted here, so the client has no part in them. A key is always
    given, or it would send the one in OPENAI_API_KEY to whatever server this is.
    """
    import openai

    return openai.AsyncOpenAI(
        base_url=base_url,
        api_key=key or "none",
        max_retries=0,
        timeout=None,
        http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False),
    )


@cache
def _tokenizer(name: str) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer  # seconds, and most servers are asked without one

    try:
        return AutoTokenizer.from_pretrained(resolve(name))
    except (OSError, ValueError) as error:
        raise unavailable(name, "the tokenizer", error) from error
