"""The records that travel between the layers, and the protocols that let parts be swapped.

A text with its entities is a `Passage` everywhere: what a reader yields, what an annotation run
writes, what a converter turns into a spaCy `Example`. What is asked of a language model is a
`Prompt`, what comes back is an `Answer`. Offsets are characters of `Passage.text`, end exclusive.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable


@dataclass(frozen=True, order=True)
class Mention:
    """One entity in a text.

    start (int): Offset of the first character.
    end (int): Offset after the last character.
    label (str): The entity type.
    score (float | None): Confidence in (0, 1], where the system gives one.
    """

    start: int
    end: int
    label: str
    score: float | None = None


@dataclass(frozen=True)
class Passage:
    """A text with the entities that stand in it.

    id (str): Unique within its file.
    text (str): The text, unchanged.
    mentions (tuple[Mention, ...]): In any order; they may overlap.
    """

    id: str
    text: str
    mentions: tuple[Mention, ...] = ()


@dataclass(frozen=True)
class Extraction:
    """What a language model said it found: a string and its type, not yet located in the text.

    text (str): The entity as the model wrote it.
    label (str): Its type, concept or definition.
    description (str): What the model added about the type; kept, never trained on.
    """

    text: str
    label: str
    description: str = ""


@dataclass(frozen=True)
class Reject:
    """A piece of a model's answer that was not used, and why. Nothing is dropped without one.

    item (str): The piece as it stood in the answer.
    reason (str): A short, countable reason such as "not in text".
    """

    item: str
    reason: str


@dataclass(frozen=True)
class Question:
    """One question of a conversation and its answer (UniversalNER 3.2).

    type (str): What is asked for: an entity type, or its definition.
    answers (tuple[str, ...]): The entities of that type; empty for a negative.
    """

    type: str
    answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Conversation:
    """A text and the questions asked about it: one training record of UniversalNER.

    id (str): The passage's id.
    text (str): The passage.
    questions (tuple[Question, ...]): In the order in which they are asked.
    dataset (str | None): Name for the dataset-specific template (Figure 3).
    """

    id: str
    text: str
    questions: tuple[Question, ...]
    dataset: str | None = None


@dataclass(frozen=True)
class Piece:
    """A run of characters of a prompt or conversation.

    text (str): The characters. For kind "end" the written form of the end-of-turn token.
    kind (str): "frame" for what the template says, "data" for what the user brought (text, label,
        answer), "turn" for a place that tokenisation does not cross (no characters), "end" for
        the end of an assistant turn, which becomes the model's own end token. Only "end" ever
        becomes a special token: in all other pieces the characters of one are just characters.
    target (bool): Whether the training loss is taken on it.
    """

    text: str
    kind: Literal["frame", "data", "turn", "end"] = "frame"
    target: bool = False


class Prompt(str):
    """A prompt that still knows its pieces. To any model it is a plain string.

    pieces (tuple[Piece, ...]): The runs that make up the string.
    source (str): The passage the prompt asks about.
    keys (tuple[str, ...] | None): What the answer should be, of strings of the passage: a JSON list
        (empty), or an object from each of these types to a list. None for any other answer.
    """

    pieces: tuple[Piece, ...]
    source: str
    keys: tuple[str, ...] | None

    def __new__(
        cls, pieces: Iterable[Piece], source: str = "", keys: tuple[str, ...] | None = ()
    ) -> Prompt:
        pieces = tuple(pieces)
        prompt = super().__new__(cls, "".join(piece.text for piece in pieces))
        prompt.pieces = pieces
        prompt.source = source
        prompt.keys = keys
        return prompt

    def __reduce__(self) -> tuple[Any, ...]:
        return (Prompt, (self.pieces, self.source, self.keys))


@dataclass(frozen=True)
class Answer:
    """A model's answer to one prompt.

    text (str): What the model wrote, without the end-of-turn token.
    ends (tuple[int, ...]): For each generated token, the offset in `text` after its last
        character; empty where the model gives no tokens.
    logprobs (tuple[float, ...]): Natural log-probability of each token, aligned with `ends`.
    complete (bool): False if the answer was cut off, as at the token limit.
    error (str | None): Why there is no answer; then `text` is empty.
    """

    text: str
    ends: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    complete: bool = True
    error: str | None = None

    @classmethod
    def of(cls, string: Any) -> Answer:
        """An answer from a model that gives nothing but strings; see `string`."""
        if isinstance(string, NoAnswer):
            return cls("", error=str(string))
        return cls(str(string), complete=not isinstance(string, CutAnswer))

    @property
    def string(self) -> str:
        """Text or error as one string: plain, a `CutAnswer` or a `NoAnswer`."""
        if self.error is not None:
            return NoAnswer(self.error)
        return self.text if self.complete else CutAnswer(self.text)


class NoAnswer(str):
    """Stands in for the answer of a request that failed; as a string it is the reason."""


class CutAnswer(str):
    """An answer that is not `complete`, for who takes nothing but strings."""


class LanguageModel(Protocol):
    """spacy-llm's model signature: the inner iterable holds one document's prompts."""

    def __call__(self, prompts: Iterable[Iterable[str]]) -> Iterable[Iterable[str]]: ...


@runtime_checkable
class AnsweringModel(Protocol):
    """A model that also returns token log-probabilities and per-prompt errors."""

    def answer(self, prompts: Iterable[Sequence[str]]) -> Iterator[list[Answer]]:
        """Answer documents' prompts, in order; lazily, so that a stream stays a stream."""
        ...


@runtime_checkable
class ModelWithOffsets(Protocol):
    """A model that can say where its own tokens lie, for windows measured in them."""

    @property
    def context_length(self) -> int | None: ...

    def token_offsets(self, text: str) -> list[tuple[int, int]]:
        """Character offsets of the model's tokens of a text, without special tokens."""
        ...


@runtime_checkable
class ModelWithIdentity(Protocol):
    """A model that names what its answers depend on: weights, revision, decoding."""

    @property
    def identity(self) -> str: ...
