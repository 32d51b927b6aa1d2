"""One token a line with its tag, a blank line after each sentence: CoNLL, BIO and their kin."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Literal

from spacy.language import Language

from ...ty import Mention, Passage, Reject
from ..readers import open_text, passage_to_doc, write_whole

TagColumn = Literal["first", "last"]

_TAG = re.compile(r"O|[BIELSU]-.+")
_BREAK = re.compile(r"[\t\r\n]")


def read_conll(path: Path, *, tags: TagColumn | None = None) -> Iterator[Passage]:
    """Stream sentences tagged in IO, IOB1, BIO, BIOES or BILOU.

    path (Path): Columns are separated by tabs, or else by spaces; `-DOCSTART-` lines are
        skipped. The text is the tokens joined by spaces.
    tags (str | None): Whether the tag is the "last" column, as in CoNLL's own files, or the
        "first", as in MIT's; None to see for oneself, reading the file once more.
    YIELDS (Passage): One a sentence, named after its number.
    RAISES (ValueError): A line without a token and a tag, with its place.
    """
    tags = tags or find_tag_column(path)
    sentence: list[tuple[str, str]] = []
    number = 0
    for place, fields in chain(_lines(path), [("", [])]):
        if fields:
            tag = fields[_index(tags)].strip()
            token = fields[1 if tags == "first" else 0].strip() if len(fields) > 1 else ""
            if not token or not _TAG.fullmatch(tag):
                raise ValueError(
                    f"{place}: expected a token and, as the {tags} column, a tag such as O or "
                    f"B-person; found {' '.join(fields)!r}"
                )
            sentence.append((token, tag))
        elif sentence:
            number += 1
            yield _to_passage(f"{path.stem}-{number}", sentence)
            sentence = []


def find_tag_column(path: Path) -> TagColumn:
    """Find the column of the tags.

    path (Path): A file as for `read_conll`.
    RETURNS (str): "last" if every line ends in a tag, "first" if every line starts with one.
    RAISES (ValueError): Neither holds; the place is where the better of the two fails.
    """
    failures: dict[TagColumn, str] = {}
    columns: tuple[TagColumn, ...] = ("last", "first")
    for place, fields in _lines(path):
        for column in columns:
            if fields and not _TAG.fullmatch(fields[_index(column)].strip()):
                failures.setdefault(column, f"{place}: {' '.join(fields)!r}")
        if len(failures) == len(columns):
            raise ValueError(
                f"{list(failures.values())[-1]}: until here each line had a tag such as O or "
                f"B-person as its {list(failures)[-1]} column, and this one has none"
            )
    return next(column for column in columns if column not in failures)


def write_conll(
    path: Path, passages: Iterable[Passage], nlp: Language, *, tags: TagColumn = "last"
) -> list[tuple[str, Reject]]:
    """Write passages as tab-separated columns in BIO.

    path (Path): The file.
    passages (Iterable[Passage]): The passages. Tokens of white space are left out.
    nlp (Language): Gives the tokenizer.
    tags (str): The column of the tags, "first" or "last".
    RETURNS (list[tuple[str, Reject]]): Entities that overlap longer ones, as a token has one tag,
        or whose label would break the line, and texts without a token, each with its passage's id.
    """
    rejects: list[tuple[str, Reject]] = []
    with write_whole(path) as file:
        for passage in passages:
            passage, broken = _without_breaks(passage)
            doc, lost = passage_to_doc(nlp, passage)
            rejects.extend((passage.id, reject) for reject in (*broken, *lost))
            if not passage.text.strip():
                rejects.append((passage.id, Reject(passage.text, "text without a token")))
                continue
            for token in doc:
                if not token.is_space:
                    tag = f"{token.ent_iob_}-{token.ent_type_}" if token.ent_type_ else "O"
                    row = (tag, token.text) if tags == "first" else (token.text, tag)
                    file.write("\t".join(row) + "\n")
            file.write("\n")
    return rejects


def _without_breaks(passage: Passage) -> tuple[Passage, list[Reject]]:
    kept, rejects = [], []
    for mention in passage.mentions:
        if _BREAK.search(mention.label):
            item = passage.text[mention.start : mention.end]
            rejects.append(Reject(item, "label with a tab or line break"))
        else:
            kept.append(mention)
    return replace(passage, mentions=tuple(kept)), rejects


def _index(column: TagColumn) -> int:
    return 0 if column == "first" else -1


def _lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """The place and columns of each line; no columns where a sentence ends."""
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            line = line.rstrip("\r\n")
            # Other white space, such as a no-break space, is a part of its token.
            fields = line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))
            fields = fields if line.strip() else []
            if fields and fields[0] == "-DOCSTART-":
                fields = []
            yield f"{path}:{number}", fields


def _to_passage(id: str, sentence: list[tuple[str, str]]) -> Passage:
    mentions: list[Mention] = []
    offset, open_label = 0, ""
    for token, tag in sentence:
        prefix, _, label = tag.partition("-")
        end = offset + len(token)
        if label and label == open_label and prefix in "IEL":
            mentions[-1] = Mention(mentions[-1].start, end, label)
        elif label:
            mentions.append(Mention(offset, end, label))
        open_label = "" if prefix in "OELSU" else label
        offset = end + 1
    return Passage(id, " ".join(token for token, _ in sentence), tuple(mentions))
