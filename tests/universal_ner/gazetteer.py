"""Language models for tests that read the prompt and answer from the text, by rules."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence

from spacy_llm.registry import registry

from spacy_universalner.ty import Answer, Prompt

QUESTION = re.compile(r"What describes (.+) in the text\? ASSISTANT:? ?$", re.DOTALL)


class Gazetteer:
    """Knows strings by type; tokens are runs of non-space characters.

    entities (dict[str, list[str]]): From what is asked to the strings that it finds.
    """

    def __init__(self, entities: dict[str, list[str]], context_length: int | None = None) -> None:
        self.entities = entities
        self.context_length = context_length
        self.max_new_tokens = 16
        self.seen: list[list[str]] = []

    @property
    def identity(self) -> str:
        return f"gazetteer {json.dumps(self.entities, sort_keys=True)}"

    def token_offsets(self, text: str) -> list[tuple[int, int]]:
        return [match.span() for match in re.finditer(r"\S+", text)]

    def respond(self, prompt: Prompt) -> str:
        asked = QUESTION.search(prompt)[1]
        known = self.entities.get(asked, [])
        return json.dumps([string for string in known if string in prompt.source])

    def answer(self, prompts: Iterable[Sequence[Prompt]]) -> Iterator[list[Answer]]:
        for group in prompts:
            self.seen.append(list(group))
            yield [self._score(self.respond(prompt)) for prompt in group]

    def __call__(self, prompts: Iterable[Iterable[Prompt]]) -> list[list[str]]:
        return [[answer.text for answer in group] for group in self.answer(map(list, prompts))]

    def _score(self, text: str) -> Answer:
        """Every character a token; the letters of shorter strings are less probable."""
        logprobs: list[float] = []
        for part in re.findall(r'"[^"]*"|.', text):
            logprobs += [-1.0 / len(part)] * len(part)
        return Answer(text, tuple(range(1, len(text) + 1)), tuple(logprobs))


@registry.llm_models("test.Gazetteer.v1")
def make_gazetteer(entities: dict[str, list[str]], context_length: int | None = None) -> Gazetteer:
    return Gazetteer(entities, context_length)


@registry.llm_models("test.PlainGazetteer.v1")
def make_plain_gazetteer(entities: dict[str, list[str]]):
    """The same as nothing but a function, as spacy-llm's models are."""
    model = Gazetteer(entities)

    def answer(prompts):
        return [[model.respond(prompt) for prompt in group] for group in prompts]

    return answer
