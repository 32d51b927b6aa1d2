"""What a model is asked about a text, and what its answers say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from thinc.api import Config

from spacy_universalner.data.annotation.parsing import parse_uniner
from spacy_universalner.data.annotation.templates import render_prompt
from spacy_universalner.ty import Answer, Piece, Prompt, Reject
from spacy_universalner.universal_ner.parser import item_score, parse_list, parse_object
from spacy_universalner.universal_ner.prompt import build_prompts, get_template

NOT_ASKED = "type not asked for"


@dataclass(frozen=True)
class Found:
    """A string that a model has answered with.

    label (str): The label that was asked about; in discovery the type that the model names.
    text (str): The string.
    score (float | None): In (0, 1], where the model gives token probabilities.
    """

    label: str
    text: str
    score: float | None = None


@dataclass(frozen=True)
class Refused:
    """A piece of an answer that was not used.

    label (str): The label that was asked about; empty if several were.
    item (str): The piece.
    reason (str): Why.
    """

    label: str
    item: str
    reason: str


class Questions:
    """The questions for a set of labels.

    labels (Mapping[str, str] | None): From label to what is asked: words or a definition. None for
        discovery: one question, the data-construction prompt (UniversalNER 3.1).
    template (str): A key of `prompt.TEMPLATES`.
    dataset (str | None): Name for the dataset-specific template (Figure 3).
    """

    def __init__(
        self, labels: Mapping[str, str] | None, template: str = "serve", dataset: str | None = None
    ) -> None:
        self.labels = None if labels is None else dict(labels)
        self.template = template
        self.dataset = dataset
        self._at_once = get_template(template).all_types

    def prompts(self, text: str) -> list[Prompt]:
        """Build the prompts for a text.

        text (str): The text or a window of it.
        RETURNS (list[Prompt]): One for each label; one in all for "all_in_one" and in discovery.
        """
        if self.labels is None:
            frame = render_prompt("uniner", "")
            pieces = (Piece(frame), Piece(text, "data"))
            return [Prompt(pieces, source=text, keys=None)]
        asked = list(self.labels.values())
        return build_prompts(text, asked, template=self.template, dataset=self.dataset)

    def subjects(self) -> list[str]:
        """For each prompt the label that it asks about; empty if it asks about several."""
        return [""] if self.labels is None or self._at_once else list(self.labels)

    def read(self, answers: Sequence[Answer]) -> tuple[list[Found], list[Refused]]:
        """Read the answers to the prompts for a text.

        answers (Sequence[Answer]): One for each prompt, in order.
        RETURNS (tuple[list[Found], list[Refused]]): The strings, and what was not used.
        """
        found: list[Found] = []
        refused: list[Refused] = []
        for subject, answer in zip(self.subjects(), answers, strict=True):
            if answer.error is None:
                strings, rejects = self._read(subject, answer)
                found.extend(strings)
                refused.extend(Refused(subject, r.item, r.reason) for r in rejects)
        return found, refused

    def _read(self, subject: str, answer: Answer) -> tuple[Iterable[Found], list[Reject]]:
        if self.labels is None:
            extractions, rejects = parse_uniner(answer.text)
            return [Found(each.label, each.text) for each in extractions], rejects
        if not self._at_once:
            items, rejects = parse_list(answer.text)
            return [Found(subject, i.text, item_score(i, answer)) for i in items], rejects
        found: list[Found] = []
        typed, rejects = parse_object(answer.text)
        for type, item in typed:
            labels = [label for label, asked in self.labels.items() if asked == type]
            if not labels:
                rejects.append(Reject(item.text, NOT_ASKED))
            found.extend(Found(label, item.text, item_score(item, answer)) for label in labels)
        return found, rejects


def asked_for(labels: Sequence[str] | Mapping[str, str] | None) -> dict[str, str] | None:
    """From label to what is asked: for a list the labels themselves.

    labels (Sequence[str] | Mapping[str, str] | None): As in the component's config.
    RETURNS (dict[str, str] | None): A copy; None for discovery.
    RAISES (ValueError): A label or what is asked holds "${", which no config can.
    """
    for text in chain(labels or (), labels.values() if isinstance(labels, Mapping) else ()):
        if "${" in text:
            raise ValueError(f"{text!r}: a config takes '${{' for a variable. Ask without it.")
    if labels is None:
        return None
    return dict(labels) if isinstance(labels, Mapping) else {label: label for label in labels}


def survives_config(values: Mapping[str, Any]) -> bool:
    """Whether a mapping comes back from a config as it was: "ORG:public" is no key of one.

    values (Mapping[str, Any]): By label.
    RETURNS (bool): False if it has to be saved elsewhere.
    """
    try:
        written = Config({"values": dict(values)}).to_str()
        return bool(Config().from_str(written)["values"] == values)
    except ValueError:
        return False
