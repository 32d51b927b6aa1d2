"""A language model whose every answer is kept, so that a run can be stopped and taken up again."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, suppress
from dataclasses import replace
from functools import cached_property
from typing import Any, Callable, Iterable  # noqa: UP035 (spacy-llm compares these very types)

from spacy.util import minibatch

from ...ty import Answer, AnsweringModel, ModelWithIdentity
from ..store import ResponseStore, Store
from .costs import count_tokens

# Prompts that a model in this process gets at once: it may give no answer before it has them all,
# and what was not given is lost with a kill. At 256 tokens of text and as many of the answer, this
# nearly fills the tokens that `spacy-universalner.HF.v1` decodes together unless told otherwise.
GROUP = 16


def make_stored_model(
    model: Callable[..., Any],
    path: str,
    identity: str | None = None,
    concurrency: int | None = None,
    max_failures: int = 10,
) -> StoredModel:
    """`spacy-universalner.Stored.v1`: any LLM, with a file of its answers before it.

    model (Callable): The LLM, any entry of `@llm_models`.
    path (str): SQLite file of the responses.
    identity (str | None): What the answers depend on beside the prompt: the model and its
        decoding. A model of this package knows its own.
    concurrency (int | None): Requests under way at once. None for the model's own setting; a
        model without one gets groups of prompts, as one that computes by itself wants them.
    max_failures (int): Requests that may fail in a row before the run stops; those that an earlier
        run has failed at do not count.
    RETURNS (StoredModel): The model.
    RAISES (ValueError): The identity is not known.
    """
    if isinstance(model, ModelWithIdentity):
        identity = model.identity
    if identity is None:
        raise ValueError(
            "spacy-universalner.Stored.v1 must know which model and decoding the responses in "
            f"{path} belong to, and {type(model).__name__} does not say. Set `identity`, for "
            "example to 'gpt-4o-mini, temperature 0'."
        )
    if concurrency is None:
        concurrency = getattr(model, "concurrency", None)
    return StoredModel(model, ResponseStore(path), identity, concurrency, max_failures)


class StoredModel:
    """Answers from the store where it can; asks for the rest and stores each answer at once.

    A request that fails becomes a `NoAnswer` and is kept among the store's failures. The next run
    asks again; that it fails again does not tell that the server is down. `asked`, `reused` and
    `failed` count the requests so far, `prompt_tokens` and `response_tokens` estimate what they
    were made of.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        store: Store,
        identity: str,
        concurrency: int | None = None,
        max_failures: int = 10,
    ) -> None:
        self.model = model
        self.store = store
        self.identity = identity
        self.concurrency = concurrency
        self.max_failures = max_failures
        self.asked = self.reused = self.failed = 0
        self.prompt_tokens = self.response_tokens = 0
        self._failures_in_a_row = 0

    def __call__(self, prompts: Iterable[Iterable[Any]]) -> Iterable[Iterable[Any]]:
        """Answer documents' prompts, in order.

        RAISES (RuntimeError): Too many requests in a row have failed.
        """
        documents = [list(document) for document in prompts]
        distinct = dict.fromkeys(prompt for document in documents for prompt in document)
        responses = {prompt: self.store.get(self.key(prompt)) for prompt in distinct}
        missing = [prompt for prompt, response in responses.items() if response is None]
        self.reused += len(distinct) - len(missing)
        _ = self._failed_before  # read before this run adds its own
        with closing(self._ask_all(missing)) as answers:
            for prompt, answer in answers:
                self._count(prompt, answer)
                responses[prompt] = answer.string
        for document in documents:
            yield [responses[prompt] for prompt in document]

    def key(self, prompt: str) -> str:
        """The store's key of a prompt."""
        return ResponseStore.key(self.identity, prompt)

    @cached_property
    def _failed_before(self) -> frozenset[str]:
        """Keys of the failures on record when the run began."""
        return frozenset(self.store.failures())

    def _ask_all(self, prompts: Sequence[str]) -> Generator[tuple[str, Answer]]:
        """Ask, and store; yield in the order in which answers come."""
        if self.concurrency is None and isinstance(self.model, AnsweringModel):
            for group in minibatch(prompts, GROUP):
                yield from self._ask_group(self.model, group)
            return
        with ThreadPoolExecutor(self.concurrency or 1) as pool:
            futures = {pool.submit(self._ask, prompt): prompt for prompt in prompts}
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            finally:  # what is under way is paid for: it is waited for and stored
                pool.shutdown(wait=False, cancel_futures=True)

    def _ask_group(
        self, model: AnsweringModel, prompts: Sequence[str]
    ) -> Iterator[tuple[str, Answer]]:
        """Ask together; if that fails, as memory may run out, ask each of the rest alone."""
        answers: list[Answer] = []
        # The exception holds the batch's memory: it is let go of before the rest is asked.
        with suppress(Exception):
            documents = model.answer([[prompt] for prompt in prompts])
            for prompt, (answer,) in zip(prompts, documents, strict=True):
                answers.append(self._keep(prompt, answer))
        yield from zip(prompts, answers, strict=False)
        for prompt in prompts[len(answers) :]:
            yield prompt, self._ask(prompt)

    def _ask(self, prompt: str) -> Answer:
        try:
            if isinstance(self.model, AnsweringModel):
                ((answer,),) = self.model.answer([[prompt]])
            else:
                ((response,),) = self.model([[prompt]])
                answer = Answer.of(response)
        except Exception as error:  # whatever a library raises is this prompt's alone
            answer = Answer("", error=f"{type(error).__name__}: {error}")
        return self._keep(prompt, answer)

    def _keep(self, prompt: str, answer: Answer) -> Answer:
        if answer.error is None:
            # Half of a surrogate pair, which a server may write as an escape, cannot be stored.
            text = answer.text.encode("utf8", "replace").decode("utf8")
            answer = answer if text == answer.text else replace(answer, text=text)
            self.store.put(self.key(prompt), answer.string)
        else:
            self.store.fail(self.key(prompt), answer.error)
        return answer

    def _count(self, prompt: str, answer: Answer) -> None:
        self.asked += 1
        self.prompt_tokens += count_tokens(prompt)
        self.response_tokens += count_tokens(answer.text)
        if answer.error is None:
            self._failures_in_a_row = 0
            return
        self.failed += 1
        if self.key(prompt) in self._failed_before:
            return
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= self.max_failures:
            raise RuntimeError(
                f"{self._failures_in_a_row} requests in a row failed, the last with: "
                f"{answer.error}\nNothing is lost: run again when the cause is mended, and only "
                "what has no answer yet is asked."
            )
