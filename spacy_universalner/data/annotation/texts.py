"""Raw text on its way to the annotator: read, cut, freed of duplicates, sampled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random

from spacy.tokenizer import Tokenizer

from ...ty import Passage, Reject
from ..duplicates import DuplicateFilter
from ..readers import open_text, passage_from_dict, read_rows


def read_texts(path: Path) -> Iterator[Passage]:
    """Stream raw texts, by the suffix of their file.

    path (Path): `.txt` with one text a line; or `.jsonl`, `.csv` or `.parquet` with "text" and
        perhaps "id". Without an id, a text is named after its place.
    YIELDS (Passage): The texts. Entities in the file are not read.
    RAISES (ValueError): Another suffix, or a row without a text, with its place.
    """
    if path.suffix == ".txt":
        with open_text(path) as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield Passage(f"{path.stem}-{number}", line.strip())
        return
    for number, (place, row) in enumerate(read_rows(path), start=1):
        id = f"{path.stem}-{number}" if row.get("id") is None else row["id"]
        yield passage_from_dict({"id": id, "text": row.get("text")}, place)


@dataclass(frozen=True)
class TextSettings:
    """Which texts are annotated: the block `[texts]` of an annotation config.

    max_tokens (int | None): Longer ones are cut into passages.
    near_duplicates (float | None): Similarity from which a text counts as seen; None to drop
        exact duplicates only.
    limit (int | None): Take only the first so many.
    sample (int | None): Draw so many at random (from the first `limit`).
    seed (int): Of the sample.
    """

    max_tokens: int | None = 256
    near_duplicates: float | None = 0.8
    limit: int | None = None
    sample: int | None = None
    seed: int = 0


def prepare_texts(
    path: Path, tokenizer: Tokenizer, settings: TextSettings
) -> tuple[Iterable[Passage], list[tuple[str, Reject]]]:
    """Read the texts to annotate: cut, free of duplicates, limited, sampled, in this order.

    path (Path): See `read_texts`.
    tokenizer (Tokenizer): For `max_tokens`.
    settings (TextSettings): Which ones.
    RETURNS (tuple[Iterable[Passage], list[tuple[str, Reject]]]): The texts, to be read once, and
        a list that then holds the ids of those left out, and why.
    """
    rejects: list[tuple[str, Reject]] = []
    passages = read_texts(path)
    if settings.max_tokens is not None:
        passages = cut(passages, tokenizer, settings.max_tokens)
    passages = drop_duplicates(passages, settings.near_duplicates, rejects)
    if settings.limit is not None:
        passages = islice(passages, settings.limit)
    if settings.sample is not None:
        return sample(passages, settings.sample, settings.seed), rejects
    return passages, rejects


def cut(passages: Iterable[Passage], tokenizer: Tokenizer, max_tokens: int) -> Iterator[Passage]:
    """Cut long texts into passages (UniversalNER 3.1: at most 256 tokens, of no named tokenizer).

    passages (Iterable[Passage]): The texts.
    tokenizer (Tokenizer): Whose tokens are counted.
    max_tokens (int): The most that a passage may have.
    YIELDS (Passage): Texts that are short enough as they are; of others the parts in order, named
        ID-1, ID-2 ..., each as long as possible. No character is lost but white space between.
    """
    for passage in passages:
        # A token has at least one character: most texts need not be tokenized.
        if len(passage.text) <= max_tokens or len(doc := tokenizer(passage.text)) <= max_tokens:
            yield passage
            continue
        for number, start in enumerate(range(0, len(doc), max_tokens), start=1):
            if part := doc[start : start + max_tokens].text.strip():
                yield Passage(f"{passage.id}-{number}", part)


def drop_duplicates(
    passages: Iterable[Passage], near: float | None, rejects: list[tuple[str, Reject]]
) -> Iterator[Passage]:
    """Let each text through once, and none that is blank.

    passages (Iterable[Passage]): The texts.
    near (float | None): See `DuplicateFilter`.
    rejects (list[tuple[str, Reject]]): Collects the others with their ids.
    YIELDS (Passage): The first of equal or similar texts.
    """
    judge = DuplicateFilter(near)
    for passage in passages:
        reject = judge(passage) if passage.text.strip() else Reject("", "blank")
        if reject is None:
            yield passage
        else:
            rejects.append((passage.id, reject))


def sample(passages: Iterable[Passage], size: int, seed: int) -> list[Passage]:
    """Draw texts at random, keeping them in order (reservoir sampling: only these are in memory).

    passages (Iterable[Passage]): The texts.
    size (int): How many to draw.
    seed (int): The same seed, the same texts.
    RETURNS (list[Passage]): The sample, or all if there are not as many.
    """
    rng = Random(seed)
    stream = iter(passages)
    reservoir = list(enumerate(islice(stream, size)))
    for i, passage in enumerate(stream, start=size):
        place = rng.randint(0, i)
        if place < size:
            reservoir[place] = (i, passage)
    return [passage for _, passage in sorted(reservoir, key=lambda entry: entry[0])]
