"""Passages into conversations: one question a type, absent types among them (UniversalNER 3.2)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from random import Random

from ..ty import Conversation, Passage, Question
from .negatives import NegativeSampler


def build_conversations(
    passages: Iterable[Passage],
    sampler: NegativeSampler,
    *,
    negatives_per_positive: float = 1.0,
    dataset: str | None = None,
    seed: int = 0,
) -> Iterator[Conversation]:
    """Turn passages into training conversations, one each.

    Every type of a passage is asked once, its distinct strings being the answer in the order of
    the text, and so are the sampled absent types, all in shuffled order. What a passage becomes
    depends on the seed and itself alone, not on its neighbours.

    passages (Iterable[Passage]): The annotated texts; streamed.
    sampler (NegativeSampler): Draws the absent types.
    negatives_per_positive (float): Absent types to draw for each type of the passage. The paper
        does not state it; as many make the two kinds of answer equally frequent.
    dataset (str | None): Name for the dataset-specific template (Figure 3).
    seed (int): Of the negatives and the order of questions.
    YIELDS (Conversation): In the order of the passages. A passage with nothing to ask has none.
    """
    for passage in passages:
        rng = Random(f"{seed} {passage.id} {passage.text}")
        answers = answers_by_type(passage)
        count = round(negatives_per_positive * len(answers))
        negatives = sampler.sample(answers, count, rng)
        questions = [Question(name, strings) for name, strings in answers.items()]
        questions += [Question(name) for name in negatives]
        rng.shuffle(questions)
        if questions:
            yield Conversation(passage.id, passage.text, tuple(questions), dataset)


def answers_by_type(passage: Passage) -> dict[str, tuple[str, ...]]:
    """The distinct strings of each type of a passage, both in the order of the text."""
    answers: dict[str, dict[str, None]] = {}
    for mention in sorted(passage.mentions, key=lambda m: (m.start, m.end, m.label)):
        answers.setdefault(mention.label, {})[passage.text[mention.start : mention.end]] = None
    return {name: tuple(strings) for name, strings in answers.items()}


class TextSplit:
    """Splits texts, so that none stands in two splits, in every file and every run alike.

    A text's split follows from its hash and the seed alone; nothing is kept in memory but the
    hashes of held-out texts.

    held_out (float): Share of the passages for evaluation.
    dev (float): Share of all texts for development.
    seed (int): Another seed, another split.
    """

    def __init__(self, *, held_out: float, dev: float, seed: int = 0) -> None:
        self.held_out = held_out
        self.dev = dev
        self.seed = seed
        self._held: set[int] = set()

    def __call__(self, text: str, *, may_hold_out: bool = True) -> str | None:
        """Say where a text belongs.

        text (str): The text.
        may_hold_out (bool): False for texts that no evaluation is wanted on. They must come after
            the others.
        RETURNS (str | None): "train", "dev" or "heldout"; None for a text that may not be held
            out but stands among those that are.
        """
        digest = hashlib.blake2b(f"{self.seed} {text}".encode("utf8", "surrogatepass"))
        number = int.from_bytes(digest.digest()[:8], "big")
        place = number / 2**64
        if may_hold_out and place < self.held_out:
            self._held.add(number)
            return "heldout"
        if number in self._held:
            return None
        return "dev" if self.held_out <= place < self.held_out + self.dev else "train"
