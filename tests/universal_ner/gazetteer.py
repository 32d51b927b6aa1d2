"""Language models for tests that read the prompt and answer from the text, by rules."""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import log
from pathlib import Path

import spacy
from spacy_llm.registry import registry

from spacy_universalner.ty import Answer, Prompt

AnyAnswers = typing.Iterable[typing.Iterable[typing.Any]]  # spacy-llm compares these very types
QUESTION = re.compile(r"What describes (.+) in the text\? ASSISTANT:? ?$", re.DOTALL)


def respond(entities: dict[str, list[str]], prompt: Prompt) -> str:
    """Answer a prompt of any template, or the discovery prompt."""
    found = {
        asked: [string for string in strings if string in prompt.source]
        for asked, strings in entities.items()
    }
    question = QUESTION.search(prompt)
    if question is None:
        return repr([(string, asked) for asked, strings in found.items() for string in strings])
    if prompt.keys == ():
        return json.dumps(found.get(question[1], []))
    return json.dumps({asked: found.get(asked, []) for asked in question[1].split(", ")})


class Gazetteer:
    """Knows strings by type. Its tokens are runs of non-space characters.

    A text with "BROKEN" in it gets an error, one with "CRASH" an exception.
    """

    def __init__(self, entities: dict[str, list[str]], context_length: int | None = None) -> None:
        self.entities = entities
        self.context_length = context_length
        self.max_new_tokens = 8
        self.seen: list[list[Prompt]] = []

    @property
    def identity(self) -> str:
        return f"gazetteer {json.dumps(self.entities, sort_keys=True)}"

    def token_offsets(self, text: str) -> list[tuple[int, int]]:
        return [match.span() for match in re.finditer(r"\S+", text)]

    def answer(self, prompts: Iterable[Sequence[Prompt]]) -> Iterator[list[Answer]]:
        for group in prompts:
            self.seen.append(list(group))
            yield [self._answer(prompt) for prompt in group]

    def __call__(self, prompts: Iterable[Iterable[Prompt]]) -> list[list[str]]:
        return [[answer.text for answer in group] for group in self.answer(map(list, prompts))]

    def _answer(self, prompt: Prompt) -> Answer:
        """Each character is a token; those of a string have the mean probability 1 - 1/length."""
        if "BROKEN" in prompt.source:
            return Answer("", error="it is broken")
        if "CRASH" in prompt.source:
            raise RuntimeError("it crashed")
        text = respond(self.entities, prompt)
        probabilities: list[float] = []
        for part in re.findall(r'"[^"]*"|.', text, re.DOTALL):
            probabilities += [1 - 1 / max(2, len(part) - 2)] * len(part)
        logprobs = tuple(log(p) for p in probabilities)
        return Answer(text, tuple(range(1, len(text) + 1)), logprobs)


@registry.llm_models("test.Gazetteer.v1")
def make_gazetteer(entities: dict[str, list[str]], context_length: int | None = None) -> Gazetteer:
    return Gazetteer(entities, context_length)


@registry.llm_models("test.PlainGazetteer.v1")
def make_plain_gazetteer(entities: dict[str, list[str]]) -> Callable[..., list[list[str]]]:
    """The same as nothing but a function, as spacy-llm's models are."""

    def answer(prompts: AnyAnswers) -> AnyAnswers:
        responses = []
        for group in prompts:
            if any("CRASH" in prompt.source for prompt in group):
                raise ConnectionError("it is unreachable")
            responses.append([respond(entities, prompt) for prompt in group])
        return responses

    return answer


def save_pipeline(folder: Path, entities: dict[str, list[str]]) -> Path:
    """A pipeline whose `universal_ner` knows some entities and records what it cannot answer."""
    nlp = spacy.blank("en")
    model = {"@llm_models": "test.Gazetteer.v1", "entities": entities}
    nlp.add_pipe("universal_ner", config={"labels": [], "model": model, "on_error": "record"})
    nlp.to_disk(folder)
    return folder
