"""Converting annotated texts between the formats of the field."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from spacy.language import Language
from spacy.tokens import Doc

from ...alignment import locate
from ...ty import Conversation, Extraction, Passage, Question, Reject
from ..conversations import answers_by_type
from ..readers import (
    doc_to_passage,
    passage_from_dict,
    passages_to_docbin,
    read_conversations,
    read_docs,
    read_passages,
    read_rows,
    write_conversations,
    write_json_lines,
    write_passages,
)
from .conll import TagColumn, read_conll, write_conll
from .nuner import read_nuner, write_nuner
from .pile_ner import read_pile_ner, write_pile_ner

Record = TypeVar("Record")
Format = Literal["passages", "conversations", "spacy", "conll", "pile-ner", "nuner"]

SUFFIXES: dict[str, Format] = {
    ".jsonl": "passages",
    ".spacy": "spacy",
    ".conll": "conll",
    ".bio": "conll",
    ".iob": "conll",
    ".tsv": "conll",
    ".txt": "conll",
    ".json": "pile-ner",
    ".csv": "nuner",
    ".parquet": "nuner",
}


def format_of(path: Path, name: str | None = None) -> Format:
    """Find a file's format.

    path (Path): The file, judged by its suffix.
    name (str | None): The format's name, if the suffix does not tell it.
    RETURNS (str): "passages" and "conversations" are this package's JSONL.
    RAISES (ValueError): There is no such format or suffix.
    """
    for format in get_args(Format):
        if format == (name or SUFFIXES.get(path.suffix)):
            return format
    raise ValueError(
        f"Unknown format '{name or path.suffix}' of {path}. Name one of "
        f"{', '.join(get_args(Format))}, or use one of the suffixes {', '.join(SUFFIXES)}."
    )


def suffix_of(format: str | None) -> str:
    """The suffix that files of a format have.

    format (str | None): The format's name.
    RETURNS (str): The first that stands for it; that of passages for conversations.
    """
    return next((suffix for suffix, each in SUFFIXES.items() if each == format), ".jsonl")


@dataclass
class Converter:
    """Reads and writes passages in any format, and collects what a format could not hold.

    nlp (Language): Gives the tokenizer.
    spans_key (str | None): Entities of `.spacy` files are in `doc.spans` under this key; None for
        `doc.ents`.
    tags (str | None): Column of the tags in CoNLL files; None to find it, and to write the last.
    dataset (str | None): Name that conversations get for the dataset-specific template.
    labels (Mapping[str, str | None]): New names of labels, such as `{"PER": "person"}`; None
        takes a label's entities out. The others stay as they are.
    count (int): Texts so far.
    rejects (list[tuple[str, Reject]]): Entities lost so far, each with its text's id.
    unread (Counter[str]): Keys of `doc.spans` with spans in Docs without an entity where they were
        looked for, and how many Docs.
    """

    nlp: Language
    spans_key: str | None = None
    tags: TagColumn | None = None
    dataset: str | None = None
    labels: Mapping[str, str | None] = field(default_factory=dict)
    count: int = 0
    rejects: list[tuple[str, Reject]] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)

    def __call__(self, source: Path, source_format: Format, target: Path, to: Format) -> None:
        """Convert a file. Conversations keep their negatives if they stay conversations, and JSONL
        of passages whatever else its rows hold.

        source (Path): The file to read.
        source_format (str): Its format.
        target (Path): The file to write.
        to (str): Its format.
        """
        kinds = ("conversations", "pile-ner")
        if source_format in kinds and to in kinds:
            conversations = map(self._ask, _read_conversations(source, source_format))
            _write_conversations(target, to, self._count(conversations))
        elif source_format == to == "passages" and source.suffix == ".jsonl":
            rows = (item for item in read_rows(source) if not item[1].get("dropped"))
            with write_json_lines(target) as write:
                for place, row in self._count(rows):
                    write(self._rename_row(row, place))
        else:
            self.write(target, to, self.read(source, source_format))

    def read(self, path: Path, format: Format) -> Iterator[Passage]:
        """Stream a file's passages; see `rejects` for the entities that could not be found."""
        match format:
            case "passages":
                passages = read_passages(path)
            case "spacy":
                passages = (
                    self._read_doc(doc, f"{path.stem}-{i}")
                    for i, doc in enumerate(read_docs(path), start=1)
                )
            case "conll":
                passages = read_conll(path, tags=self.tags)
            case "nuner":
                passages = (self._note(*found) for found in read_nuner(path))
            case _:
                conversations = _read_conversations(path, format)
                passages = (self._note(*conversation_to_passage(each)) for each in conversations)
        yield from self._count(map(self._rename, passages))

    def write(self, path: Path, format: Format, passages: Iterable[Passage]) -> None:
        """Write passages; see `rejects` for the entities that the format could not hold."""
        match format:
            case "passages":
                write_passages(path, passages)
            case "spacy":
                docs, lost = passages_to_docbin(self.nlp, passages, spans_key=self.spans_key)
                path.parent.mkdir(parents=True, exist_ok=True)
                docs.to_disk(path)
                self.rejects += lost
            case "conll":
                self.rejects += write_conll(path, passages, self.nlp, tags=self.tags or "last")
            case "nuner":
                self.rejects += write_nuner(path, passages)
            case _:
                conversations = (passage_to_conversation(each, self.dataset) for each in passages)
                _write_conversations(path, format, conversations)

    def _read_doc(self, doc: Doc, default_id: str) -> Passage:
        passage = doc_to_passage(doc, default_id, spans_key=self.spans_key)
        if not passage.mentions:
            self.unread.update(key for key, group in doc.spans.items() if len(group))
        return passage

    def _count(self, records: Iterable[Record]) -> Iterator[Record]:
        for record in records:
            self.count += 1
            yield record

    def _rename(self, passage: Passage) -> Passage:
        named = (
            (mention, self.labels.get(mention.label, mention.label)) for mention in passage.mentions
        )
        mentions = (replace(mention, label=label) for mention, label in named if label is not None)
        return replace(passage, mentions=tuple(mentions))

    def _rename_row(self, row: dict[str, Any], place: str) -> dict[str, Any]:
        passage_from_dict(row, place)  # which checks it
        entities = [
            {**entity, "label": label}
            for entity in row.get("entities") or ()
            if (label := self.labels.get(str(entity["label"]), str(entity["label"]))) is not None
        ]
        return {**row, "entities": entities}

    def _ask(self, conversation: Conversation) -> Conversation:
        named = (
            (asked, self.labels.get(asked.type, asked.type)) for asked in conversation.questions
        )
        answers: dict[str, dict[str, None]] = {}  # labels that became one are asked for once
        for asked, label in named:
            if label is not None:
                answers.setdefault(label, {}).update(dict.fromkeys(asked.answers))
        questions = tuple(Question(label, tuple(found)) for label, found in answers.items())
        dataset = conversation.dataset if self.dataset is None else self.dataset
        return replace(conversation, questions=questions, dataset=dataset)

    def _note(self, passage: Passage, rejects: Iterable[Reject]) -> Passage:
        self.rejects += [(passage.id, reject) for reject in rejects]
        return passage


def passage_to_conversation(passage: Passage, dataset: str | None = None) -> Conversation:
    """Ask for each type of a passage, in the order of the text; no negatives."""
    questions = tuple(Question(name, found) for name, found in answers_by_type(passage).items())
    return Conversation(passage.id, passage.text, questions, dataset)


def conversation_to_passage(conversation: Conversation) -> tuple[Passage, list[Reject]]:
    """Find a conversation's answers in its text, at every place where they stand."""
    answers = (
        Extraction(answer, question.type)
        for question in conversation.questions
        for answer in question.answers
    )
    mentions, rejects = locate(conversation.text, answers)
    return Passage(conversation.id, conversation.text, tuple(mentions)), rejects


def _read_conversations(path: Path, format: Format) -> Iterator[Conversation]:
    return read_pile_ner(path) if format == "pile-ner" else read_conversations(path)


def _write_conversations(path: Path, format: Format, records: Iterable[Conversation]) -> None:
    if format == "pile-ner":
        write_pile_ner(path, records)
    else:
        write_conversations(path, records)
