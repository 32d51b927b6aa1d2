"""Passages and conversations on disk, and their way into spaCy."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, TextIO

from spacy.language import Language
from spacy.tokens import Doc, DocBin, SpanGroup
from spacy.training import Example
from spacy.util import filter_spans
from spacy.vocab import Vocab

from ..alignment import to_spans
from ..ty import Conversation, Mention, Passage, Question, Reject

_SURROGATE = re.compile("[\ud800-\udfff]")


def read_json_lines(path: Path | str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Stream a file of one JSON object a line.

    path (Path | str): The file; blank lines are skipped.
    YIELDS (tuple[str, dict[str, Any]]): Where it stands, as "file:line", and the object.
    RAISES (ValueError): A line that is no JSON object, with its place.
    """
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            place = f"{path}:{number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{place}: not JSON: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{place}: expected a JSON object, found {line.strip()[:80]}")
            yield place, row


@contextmanager
def open_text(path: Path | str, newline: str | None = None) -> Iterator[TextIO]:
    """Open a text file for reading: UTF-8, with or without a byte-order mark.

    path (Path | str): The file.
    newline (str | None): As in `open`.
    YIELDS (TextIO): The file.
    RAISES (ValueError): It turns out not to be UTF-8.
    """
    with Path(path).open(encoding="utf-8-sig", newline=newline) as file:
        try:
            yield file
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}: not UTF-8 ({error.reason}). Convert it, such as by "
                f"`iconv -f latin1 -t utf8 {path}`."
            ) from error


def read_rows(path: Path | str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Stream the rows of a table, by the suffix of its file.

    path (Path | str): `.jsonl`, `.csv` with a header, or `.parquet`, a file or a folder of files.
    YIELDS (tuple[str, dict[str, Any]]): Where the row stands, and its values by column.
    RAISES (ImportError): `.parquet`, and pyarrow is not installed.
    RAISES (ValueError): Another suffix.
    """
    path = Path(path)
    match path.suffix:
        case ".jsonl":
            yield from read_json_lines(path)
        case ".csv":
            csv.field_size_limit(1 << 30)  # a text may be long
            with open_text(path, newline="") as file:
                rows = csv.DictReader(file)
                for row in rows:
                    yield f"{path}:{rows.line_num}", row
        case ".parquet":
            for number, row in enumerate(_read_parquet(path), start=1):
                yield f"{path}, row {number}", row
        case _:
            raise ValueError(
                f"Cannot read {path}: expected .jsonl, .csv or .parquet; for raw texts also .txt"
            )


def _read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow.dataset import dataset
    except ImportError as error:
        raise ImportError(
            f"Reading {path} needs pyarrow. Install it with "
            "`pip install 'spacy-universalner[ray]'`, or give the rows as JSONL or CSV."
        ) from error
    for batch in dataset(path, format="parquet").to_batches():
        yield from batch.to_pylist()


@contextmanager
def write_json_lines(path: Path | str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Stream objects into a file that appears only when it is whole.

    path (Path | str): The file; its folder is made when missing.
    YIELDS (Callable[[dict[str, Any]], None]): Writes one object as one line.
    """
    with write_whole(path) as file:
        yield lambda row: print_line(file, row)


def print_line(file: TextIO, row: dict[str, Any]) -> None:
    """Write one object as one line of JSON, non-ASCII characters as they are."""
    file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_passages(path: Path | str, *, label: str = "label") -> Iterator[Passage]:
    """Stream passages from JSONL: `{"id", "text", "entities": [{"start", "end", "label"}]}`.

    path (Path | str): The file, or Parquet with the same columns. An absent `id` becomes the
        line's place, absent `entities` none. Texts that an annotation run has `dropped`, which
        its Parquet holds too, are passed over.
    label (str): Key of an entity that holds its type, such as "description" for conversations
        that ask by definition. Entities without such another key are skipped.
    YIELDS (Passage): One a line.
    RAISES (ValueError): A line that does not hold one, with its place.
    """
    for place, row in read_rows(path):
        if not row.get("dropped"):
            yield passage_from_dict(row, place, label=label)


def passage_from_dict(row: dict[str, Any], place: str, *, label: str = "label") -> Passage:
    """Check a passage's JSON object and turn it into a record; see `read_passages`."""
    text = row.get("text")
    if not isinstance(text, str):
        raise ValueError(f'{place}: a passage needs "text", a string; found {text!r}')
    check_characters(row, place)
    entities = row.get("entities")
    if entities is not None and not isinstance(entities, list):
        raise ValueError(f'{place}: "entities" is a list; found {entities!r}')
    mentions = []
    for entity in entities or ():
        try:
            start, end = (_offset(entity[key]) for key in ("start", "end"))
            name = entity.get(label)
            if label == "label" and not name:
                raise KeyError(label)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise ValueError(
                f'{place}: an entity needs "start", "end" and "{label}"; found {entity}'
            ) from error
        if not 0 <= start < end <= len(text):
            raise ValueError(
                f"{place}: entity {start}-{end} is outside the text, which has {len(text)} "
                "characters. Offsets are characters, the end exclusive."
            )
        if name:
            mentions.append(Mention(start, end, str(name), entity.get("score")))
    return Passage(place if row.get("id") is None else str(row["id"]), text, tuple(mentions))


def _offset(value: Any) -> int:
    """An offset, which some tables hold as a float or a string."""
    if isinstance(value, bool) or int(value) != float(value):
        raise ValueError(f"{value!r} is no whole number")
    return int(value)


def passage_to_dict(passage: Passage) -> dict[str, Any]:
    """The JSON object of a passage; see `read_passages`."""
    entities = []
    for mention in sorted(passage.mentions, key=lambda m: (m.start, m.end, m.label)):
        entity: dict[str, Any] = {
            "start": mention.start,
            "end": mention.end,
            "label": mention.label,
        }
        if mention.score is not None:
            entity["score"] = mention.score
        entities.append(entity)
    return {"id": passage.id, "text": passage.text, "entities": entities}


def write_passages(path: Path | str, passages: Iterable[Passage]) -> int:
    """Write passages as JSONL.

    path (Path | str): The file.
    passages (Iterable[Passage]): Any number of them; they are streamed.
    RETURNS (int): How many there were.
    """
    return _write(path, map(passage_to_dict, passages))


def read_conversations(path: Path | str) -> Iterator[Conversation]:
    """Stream conversations from JSONL: `{"id", "text", "dataset"?, "questions"}`, each question
    `{"type", "answers": [...]}`.

    path (Path | str): The file.
    YIELDS (Conversation): One a line.
    RAISES (ValueError): A line that does not hold one, with its place.
    """
    for place, row in read_json_lines(path):
        check_characters(row, place)
        try:
            questions = tuple(
                Question(_string(question, "type"), read_answers(question["answers"]))
                for question in row["questions"]
            )
            dataset = None if row.get("dataset") is None else _string(row, "dataset")
            yield Conversation(str(row["id"]), _string(row, "text"), questions, dataset)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f'{place}: a conversation needs "id", "text" and "questions", each with "type" '
                f'and "answers"; {type(error).__name__}: {error}'
            ) from error


def check_characters(row: Any, place: str) -> None:
    """Refuse what cannot be written to a file again.

    row (Any): An object of a JSON file.
    place (str): Where it stands.
    RAISES (ValueError): One of its strings holds half of a surrogate pair.
    """
    if found := _SURROGATE.search(json.dumps(row, ensure_ascii=False, default=str)):
        raise ValueError(
            f"{place}: {found[0]!r} is half of a surrogate pair, which is no character"
        )


def _string(row: dict[str, Any], key: str) -> str:
    if not isinstance(row[key], str):
        raise TypeError(f'"{key}" is a string, found {row[key]!r}')
    return row[key]


def read_answers(answers: Any) -> tuple[str, ...]:
    """Check the answers to a question.

    answers (Any): What stands in their place.
    RETURNS (tuple[str, ...]): The strings.
    RAISES (TypeError): It is not a list of strings.
    """
    if not isinstance(answers, list) or not all(isinstance(each, str) for each in answers):
        raise TypeError(f"answers are a list of strings, found {str(answers)[:80]!r}")
    return tuple(answers)


def write_conversations(path: Path | str, conversations: Iterable[Conversation]) -> int:
    """Write conversations as JSONL; see `read_conversations`.

    path (Path | str): The file.
    conversations (Iterable[Conversation]): Any number of them; they are streamed.
    RETURNS (int): How many there were.
    """
    return _write(path, map(conversation_to_dict, conversations))


def conversation_to_dict(conversation: Conversation) -> dict[str, Any]:
    """The JSON object of a conversation; see `read_conversations`."""
    row: dict[str, Any] = {"id": conversation.id, "text": conversation.text}
    if conversation.dataset is not None:
        row["dataset"] = conversation.dataset
    row["questions"] = [
        {"type": question.type, "answers": list(question.answers)}
        for question in conversation.questions
    ]
    return row


def passage_to_doc(
    nlp: Language, passage: Passage, *, spans_key: str | None = None
) -> tuple[Doc, list[Reject]]:
    """Turn a passage into a Doc.

    nlp (Language): Gives the tokenizer.
    passage (Passage): The text and its entities. Where they do not fit the tokens, they grow to
        whole ones.
    spans_key (str | None): Put all entities into `doc.spans` under this key; None to put them
        into `doc.ents`, where of overlapping ones the longest stays.
    RETURNS (tuple[Doc, list[Reject]]): The Doc, its id in `user_data["id"]`, and the entities
        that it could not hold.
    """
    doc = nlp.make_doc(passage.text)
    doc.user_data["id"] = passage.id
    spans, rejects = to_spans(doc, passage.mentions, "expand")
    if spans_key is not None:
        doc.spans[spans_key] = SpanGroup(doc, name=spans_key, spans=spans)
        return doc, rejects
    doc.ents = filter_spans(spans)
    kept = set(doc.ents)
    lost = [Reject(span.text, "overlaps a longer entity") for span in spans if span not in kept]
    return doc, [*rejects, *lost]


def read_docs(path: Path | str) -> Iterator[Doc]:
    """Stream the documents of a `.spacy` file, with a vocabulary of their own.

    path (Path | str): The file.
    YIELDS (Doc): Each document.
    RAISES (ValueError): It is no such file, or damaged.
    """
    try:
        docbin = DocBin().from_disk(path)
    except ValueError as error:
        raise ValueError(
            f"{path}: expected a file of spaCy's DocBin, as `spacy convert` writes it: {error}"
        ) from error
    yield from docbin.get_docs(Vocab())


def doc_to_passage(doc: Doc, default_id: str, *, spans_key: str | None = None) -> Passage:
    """Turn a Doc into a passage; the opposite of `passage_to_doc`."""
    spans = doc.ents if spans_key is None else doc.spans.get(spans_key, ())
    mentions = tuple(Mention(span.start_char, span.end_char, span.label_) for span in spans)
    return Passage(str(doc.user_data.get("id", default_id)), doc.text, mentions)


def passages_to_docbin(
    nlp: Language, passages: Iterable[Passage], *, spans_key: str | None = None
) -> tuple[DocBin, list[tuple[str, Reject]]]:
    """Turn passages into what `spacy train` reads; see `passage_to_doc`.

    RETURNS (tuple[DocBin, list[tuple[str, Reject]]]): The Docs, and the entities that they could
        not hold, each with its passage's id.
    """
    docbin = DocBin(store_user_data=True)
    rejects: list[tuple[str, Reject]] = []
    for passage in passages:
        doc, lost = passage_to_doc(nlp, passage, spans_key=spans_key)
        docbin.add(doc)
        rejects.extend((passage.id, reject) for reject in lost)
    return docbin, rejects


def make_jsonl_corpus(
    path: Path, spans_key: str | None = None
) -> Callable[[Language], Iterator[Example]]:
    """`spacy-universalner.JsonlCorpus.v1`: train and evaluate on passages without converting them.

    path (Path): JSONL as in `read_passages`; streamed anew in each epoch.
    spans_key (str | None): Entities go into `doc.spans` under this key; None for `doc.ents`.
    RETURNS (Callable[[Language], Iterator[Example]]): The corpus.
    """

    def read(nlp: Language) -> Iterator[Example]:
        for passage in read_passages(path):
            reference, _ = passage_to_doc(nlp, passage, spans_key=spans_key)
            yield Example(nlp.make_doc(passage.text), reference)

    return read


@contextmanager
def write_whole(path: Path | str) -> Iterator[TextIO]:
    """Open a text file for writing that takes its name only when it is complete."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    # No "\r\n" on Windows: inside a quoted text it would move all offsets behind it.
    with partial.open("w", encoding="utf8", newline="\n") as file:
        yield file
    partial.replace(path)


def check_paths(sources: Iterable[Path], outputs: Iterable[Path]) -> None:
    """Refuse to write over what is read.

    sources (Iterable[Path]): The inputs, files or folders.
    outputs (Iterable[Path]): What will be written.
    RAISES (ValueError): One of them is an input, holds one or lies in one.
    """
    for source, output in product(sources, outputs):
        read, target = source.resolve(), output.resolve()
        if target == read or target in read.parents or read in target.parents:
            raise ValueError(
                f"{output} would be written over the texts in {source}. Name another output."
            )


def _write(path: Path | str, rows: Iterable[dict[str, Any]]) -> int:
    count = 0
    with write_json_lines(path) as write:
        for row in rows:
            write(row)
            count += 1
    return count
