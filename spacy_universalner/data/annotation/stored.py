"""A language model whose every answer is kept, so that a run can be stopped and taken up again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, Iterable  # noqa: UP035 (spacy-llm compares these very types)

from ...ty import Answer, AnsweringModel, ModelWithIdentity
from ..store import ResponseStore


class NoAnswer(str):
    """Stands in for the answer of a request that failed; as a string it is the reason."""


def make_stored_model(
    model: Callable[..., Any],
    path: str,
    identity: str | None = None,
    max_failures: int = 10,
) -> StoredModel:
    """`spacy-universalner.Stored.v1`: any LLM, with a file of its answers before it.

    model (Callable): The LLM, any entry of `@llm_models`.
    path (str): SQLite file of the responses.
    identity (str | None): What the answers depend on beside the prompt: the model and its
        decoding. None to ask the model, if it is one of this package.
    max_failures (int): Requests that may fail in a row before the run stops.
    RETURNS (StoredModel): The model.
    """
    if isinstance(model, ModelWithIdentity):
        identity = model.identity
    if identity is None:
        raise ValueError(
            "spacy-universalner.Stored.v1 must know which model and decoding the responses in "
            f"{path} belong to, and {type(model).__name__} does not say. Set `identity`, for "
            "example to 'gpt-4o-mini, temperature 0'."
        )
    return StoredModel(model, ResponseStore(Path(path)), identity, max_failures=max_failures)


class StoredModel:
    """Answers from the store where it can; asks for the rest and stores each answer at once.

    A request that fails becomes a `NoAnswer` and is kept among the store's failures; the next run
    asks again. `asked`, `reused` and `failed` count the requests so far.
    """

    def __init__(
        self, model: Callable[..., Any], store: ResponseStore, identity: str, *, max_failures: int
    ) -> None:
        self.model = model
        self.store = store
        self.identity = identity
        self.max_failures = max_failures
        self.asked = self.reused = self.failed = 0
        self._failures_in_a_row = 0

    def __call__(self, prompts: Iterable[Iterable[Any]]) -> Iterable[Iterable[Any]]:
        """Answer documents' prompts, in order."""
        documents = [list(document) for document in prompts]
        distinct = dict.fromkeys(prompt for document in documents for prompt in document)
        answers = {prompt: self.store.get(self.key(prompt)) for prompt in distinct}
        missing = [prompt for prompt, answer in answers.items() if answer is None]
        self.reused += len(distinct) - len(missing)
        for prompt, answer in zip(missing, self._ask(missing), strict=True):
            answers[prompt] = self._keep(prompt, answer)
        for document in documents:
            yield [answers[prompt] for prompt in document]

    def key(self, prompt: str) -> str:
        """The store's key of a prompt."""
        return self.store.key(self.identity, prompt)

    def _ask(self, prompts: Sequence[str]) -> Iterator[Answer]:
        if isinstance(self.model, AnsweringModel):
            for (answer,) in self.model.answer([prompt] for prompt in prompts):
                yield answer
            return
        for prompt in prompts:
            try:
                ((response,),) = self.model([[prompt]])
                yield Answer(str(response))
            except Exception as error:  # any model of any library
                yield Answer("", error=f"{type(error).__name__}: {error}")

    def _keep(self, prompt: str, answer: Answer) -> str:
        self.asked += 1
        if answer.error is None:
            self._failures_in_a_row = 0
            self.store.put(self.key(prompt), answer.text)
            return answer.text
        self.failed += 1
        self._failures_in_a_row += 1
        self.store.fail(self.key(prompt), answer.error)
        if self._failures_in_a_row >= self.max_failures:
            raise RuntimeError(
                f"{self._failures_in_a_row} requests in a row failed, the last with: "
                f"{answer.error}\nNothing is lost: run again when the cause is mended, and only "
                "what has no answer yet is asked."
            )
        return NoAnswer(answer.error)
