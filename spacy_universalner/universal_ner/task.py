"""UniversalNER's questions as a spacy-llm task, for the component `llm`."""

from __future__ import annotations

from itertools import islice

# spacy-llm compares a task's annotations with these very types.
from typing import Any, Iterable, Literal, Tuple  # noqa: UP035

from spacy.tokens import Doc
from spacy.training import Example

from spacy_universalner import scores
from spacy_universalner.evaluation.scorers import score_entities
from spacy_universalner.ty import Answer
from spacy_universalner.universal_ner.annotator import Annotator
from spacy_universalner.universal_ner.questions import Questions, asked_for
from spacy_universalner.universal_ner.windows import Window, cover


def make_uniner_task(
    labels: list[str] | dict[str, str] | None,
    template: str = "serve",
    dataset: str | None = None,
    annotate: Literal["ents", "spans", "both"] = "both",
    spans_key: str = "universal_ner",
    conflict: Literal["longest", "label_order"] = "longest",
    overwrite_ents: bool = False,
    occurrences: Literal["all", "first"] = "all",
    alignment_mode: Literal["strict", "contract", "expand"] = "expand",
    window: int = 512,
    stride: int = 64,
) -> UniNERTask:
    """`spacy-universalner.UniNER.v1`: one question for each label, as `universal_ner` asks it.

    The arguments are those of `universal_ner`, where they are described. spacy-llm hands a task
    nothing but strings, so there are no scores; and the window is measured in spaCy's tokens.

    RETURNS (UniNERTask): The task.
    """
    scores.register()
    return UniNERTask(
        Questions(asked_for(labels), template, dataset),
        Annotator(
            spans_key=spans_key,
            annotate=annotate,
            conflict=conflict,
            overwrite_ents=overwrite_ents,
            occurrences=occurrences,
            alignment_mode=alignment_mode,
        ),
        window=window,
        stride=stride,
    )


class UniNERTask:
    """Asks a model about each window of a document, label by label, and aligns its answers."""

    def __init__(
        self, questions: Questions, annotator: Annotator, *, window: int, stride: int
    ) -> None:
        self.questions = questions
        self.annotator = annotator
        self.window = window
        self.stride = stride

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in order; empty in discovery."""
        return tuple(self.questions.labels or ())

    def generate_prompts(
        self, docs: Iterable[Doc], context_length: int | None = None
    ) -> Iterable[Tuple[Iterable[Any], Iterable[Doc]]]:  # noqa: UP006
        """Build the prompts for documents.

        docs (Iterable[Doc]): The documents.
        context_length (int | None): Tokens that prompt and answer may have together. A quarter
            of them is for the text, counted in spaCy's tokens: these are about half as many as
            a model's, and question and answer need room too.
        YIELDS (tuple[list[Prompt], list[Doc]]): All prompts about a document, and the document.
        """
        for doc in docs:
            windows = self._windows(doc, context_length)
            text = doc.text  # spaCy joins it anew at each access
            texts = [text[window.start : window.end] for window in windows]
            # The windows go along so that the reading does not depend on the context length.
            doc.user_data[_WINDOWS] = [(w.start, w.end, w.cut_start, w.cut_end) for w in windows]
            yield [prompt for text in texts for prompt in self.questions.prompts(text)], [doc]

    def parse_responses(
        self, shards: Iterable[Iterable[Doc]], responses: Iterable[Iterable[Any]]
    ) -> Iterable[Doc]:
        """Write the answers to the documents.

        shards (Iterable[Iterable[Doc]]): The documents as `generate_prompts` gave them out.
        responses (Iterable[Iterable[Any]]): The answers to the prompts about each.
        YIELDS (Doc): The documents, with spans and entities; what was not used stands in
            `doc.user_data["universal_ner"]`.
        """
        for (doc,), strings in zip(shards, responses, strict=True):
            windows = [Window(*fields) for fields in doc.user_data.pop(_WINDOWS)]
            stream = iter([Answer.of(string) for string in strings])
            size = len(self.questions.subjects())
            answers = [list(islice(stream, size)) for _ in windows]
            record = self.annotator(doc, windows, self.questions, answers)
            doc.user_data["universal_ner"] = record
            yield doc

    def scorer(self, examples: Iterable[Example]) -> dict[str, Any]:
        """Strict scores of the entities; see `spacy-universalner.EntityScorer.v1`."""
        return score_entities(examples, spans_key=self.annotator.spans_key)

    def _windows(self, doc: Doc, context_length: int | None) -> list[Window]:
        if self.questions.labels == {}:
            return []
        size = self.window
        if context_length is not None:
            size = max(1, min(size, context_length // 4))
        return cover(doc, size, self.stride)


_WINDOWS = "universal_ner_windows"
