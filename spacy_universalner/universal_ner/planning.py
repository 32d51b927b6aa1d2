"""What is asked about a document: windows that fit into the model's context, and their prompts."""

from __future__ import annotations

from dataclasses import dataclass

from spacy.tokens import Doc

from spacy_universalner.ty import LanguageModel, ModelWithOffsets, Prompt
from spacy_universalner.universal_ner.questions import Questions
from spacy_universalner.universal_ner.windows import Window, cover

# Tokens a prompt may have in addition with a text in it: a text may split differently there.
SLACK = 8


@dataclass
class Task:
    """A document with what is asked about it.

    doc (Doc): The document.
    windows (list[Window]): Stretches of its text; none of a blank one.
    prompts (list[list[Prompt]]): The prompts about each of them.
    """

    doc: Doc
    windows: list[Window]
    prompts: list[list[Prompt]]


class Planner:
    """Decides what is asked about documents.

    name (str): The component's, for errors.
    model (LanguageModel): Counts windows in its own tokens if it tells them, else they are counted
        in the document's, each of which is taken for up to two of the model's.
    questions (Questions): What to ask.
    window (int): Tokens in a window, at most.
    stride (int): Tokens that neighbouring windows share, at most.
    """

    def __init__(
        self, name: str, model: LanguageModel, questions: Questions, window: int, stride: int
    ) -> None:
        if not 0 <= stride < window:
            raise ValueError(
                f"'{name}': stride must be at least 0 and smaller than window, got stride = "
                f"{stride} and window = {window}."
            )
        self.name = name
        self.model = model
        self.questions = questions
        self.window = window
        self.stride = stride
        self._question_tokens: dict[tuple[str, ...], int] = {}

    def __call__(self, doc: Doc) -> Task:
        """Decide what to ask: nothing about a blank document.

        doc (Doc): The document.
        RETURNS (Task): It, with windows and prompts.
        RAISES (ValueError): Question and answer leave no room for text in the model's context.
        """
        text = doc.text  # spaCy joins it anew at each access
        windows = [] if self.questions.labels == {} else self._windows(doc, text)
        prompts = [self.questions.prompts(text[each.start : each.end]) for each in windows]
        return Task(doc, windows, prompts)

    def _windows(self, doc: Doc, text: str) -> list[Window]:
        if isinstance(self.model, ModelWithOffsets):
            offsets = self.model.token_offsets(text)
            return cover(doc, self._size(1), self.stride, offsets)
        return cover(doc, self._size(2), self.stride)

    def _size(self, scale: int) -> int:
        """Tokens in a window that fit into the model's context beside question and answer."""
        context: int | None = getattr(self.model, "context_length", None)
        if context is None:
            return self.window
        answer = getattr(self.model, "max_new_tokens", None) or 0
        question = self._longest_question()
        room = (context - question - answer) // scale
        if room < 1:
            raise ValueError(
                f"'{self.name}': a question of {question} tokens and max_new_tokens = {answer} "
                f"leave no room for text in the model's context of {context} tokens. Lower "
                "max_new_tokens or shorten what is asked."
            )
        return min(self.window, room)

    def _longest_question(self) -> int:
        """Tokens of the longest prompt without its text."""
        prompts = tuple(map(str, self.questions.prompts("")))
        if prompts not in self._question_tokens:
            if isinstance(self.model, ModelWithOffsets):
                tokens = [len(self.model.token_offsets(prompt)) + SLACK for prompt in prompts]
            else:
                tokens = [2 * len(prompt.split()) for prompt in prompts]
            self._question_tokens = {prompts: max(tokens)}
        return self._question_tokens[prompts]
