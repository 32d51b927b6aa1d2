"""Recorded answers in the place of a language model: a run that costs nothing and repeats."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Iterable  # noqa: UP035 (spacy-llm compares these very types)

from ...data.annotation.templates import render_prompt
from ...data.readers import read_json_lines
from ...ty import Answer


def make_recorded_model(path: Path, template: str) -> RecordedModel:
    """`spacy-universalner.Recorded.v1`: answers a prompt with the response recorded for it.

    path (Path): JSONL of `{"text", "response"}`.
    template (str): Name of the annotation template, or path of the Jinja file, that the task asks
        with.
    RETURNS (RecordedModel): The model.
    """
    return RecordedModel(path, template)


class RecordedModel:
    """Holds the prompt of every recorded text, and its response. Read at the first prompt."""

    def __init__(self, path: Path, template: str) -> None:
        self.path = Path(path)
        self.template = template
        self._responses: dict[str, str] = {}

    @property
    def identity(self) -> str:
        """The file's contents: another recording is another model."""
        return f"recorded, sha256 {hashlib.sha256(self.path.read_bytes()).hexdigest()}"

    def __call__(self, prompts: Iterable[Iterable[Any]]) -> Iterable[Iterable[Any]]:
        """Answer documents' prompts, in order.

        RAISES (ValueError): A prompt that was not recorded.
        """
        for answers in self.answer(list(document) for document in prompts):
            for answer in answers:
                if answer.error is not None:
                    raise ValueError(answer.error)
            yield [answer.text for answer in answers]

    def answer(self, prompts: Iterable[Sequence[str]]) -> Iterator[list[Answer]]:
        """Answer documents' prompts, in order; an error for each that was not recorded."""
        self._load()
        for document in prompts:
            yield [self._answer(prompt) for prompt in document]

    def _answer(self, prompt: str) -> Answer:
        response = self._responses.get(prompt)
        if response is None:
            return Answer(
                "",
                error=f"{self.path} holds no response to the prompt that ends in "
                f"{prompt[-60:]!r}. A recorded model answers only the texts that it was recorded "
                f"on, asked with the template '{self.template}'; for others name a live model.",
            )
        return Answer(response)

    def _load(self) -> None:
        if self._responses:
            return
        for place, row in read_json_lines(self.path):
            if "text" not in row or "response" not in row:
                raise ValueError(f'{place}: a recording needs "text" and "response"')
            self._responses[render_prompt(self.template, row["text"])] = row["response"]
