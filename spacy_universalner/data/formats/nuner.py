"""NuNER's data as it was published: sentences with lists of `entity <> concept <> description`."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from ...alignment import locate
from ...ty import Passage, Reject
from ..annotation.parsing import SEPARATOR, parse_lines, read_strings, without_bullets
from ..conversations import answers_by_type
from ..readers import check_characters, read_rows, write_json_lines, write_whole


def read_nuner(path: Path) -> Iterator[tuple[Passage, list[Reject]]]:
    """Read sentences and find their entities (NuNER 3.1).

    path (Path): `.parquet`, `.csv` or `.jsonl` with the columns "input", a sentence, and
        "output", a list of lines or the string that Python prints for one.
    YIELDS (tuple[Passage, list[Reject]]): A sentence, and the entities that could not be used.
    RAISES (ValueError): A row of another form, with its place.
    """
    for number, (place, row) in enumerate(read_rows(path), start=1):
        text, output = row.get("input"), row.get("output")
        if not isinstance(text, str) or not isinstance(output, (str, list)):
            raise ValueError(
                f'{place}: expected "input", a sentence, and "output", a list of '
                f"'entity <> concept'; found {str(row)[:200]}"
            )
        check_characters(row, place)
        items = read_strings(output) if isinstance(output, str) else map(str, output)
        lines = [line for item in items if item.strip() for line in _split(item)]
        found, unread = parse_lines(lines)
        if any(each.text not in text for each in found):
            found, unread = parse_lines(without_bullets(lines, text))
        mentions, lost = locate(text, found)
        yield Passage(f"{path.stem}-{number}", text, tuple(mentions)), [*unread, *lost]


def write_nuner(path: Path, passages: Iterable[Passage]) -> list[tuple[str, Reject]]:
    """Write sentences with "input" and "output".

    path (Path): The file: `.csv`, with lists as Python prints them, or else JSON lines.
    passages (Iterable[Passage]): The sentences; streamed.
    RETURNS (list[tuple[str, Reject]]): Entities that a line cannot hold, each with its passage's
        id.
    RAISES (ValueError): The file is `.parquet`, which is read only.
    """
    rejects: list[tuple[str, Reject]] = []
    rows = ({"input": passage.text, "output": _lines(passage, rejects)} for passage in passages)
    match path.suffix:
        case ".parquet":
            raise ValueError(f"Cannot write {path}: NuNER's data is written as .csv or .jsonl")
        case ".csv":
            with write_whole(path) as file:
                # Else a carriage return, which ends a line for readers, would be written bare.
                table = csv.DictWriter(
                    file, ("input", "output"), lineterminator="\n", quoting=csv.QUOTE_ALL
                )
                table.writeheader()
                table.writerows(rows)
        case _:
            with write_json_lines(path) as write:
                for row in rows:
                    write(row)
    return rejects


def _split(item: str) -> list[str]:
    """An item may be several lines; an entity may hold a line break."""
    lines = item.splitlines()
    return lines if all(SEPARATOR in line for line in lines) else [item]


def _lines(passage: Passage, rejects: list[tuple[str, Reject]]) -> list[str]:
    lines = []
    for concept, entities in answers_by_type(passage).items():
        for entity in entities:
            line = f"{entity} {SEPARATOR} {concept}"
            if SEPARATOR in entity or SEPARATOR in concept:
                rejects.append((passage.id, Reject(line, f'holds "{SEPARATOR}"')))
            else:
                lines.append(line)
    return lines
