"""Convert annotated texts from one format to another."""

import json
from pathlib import Path

import spacy
import typer
from wasabi import msg

from spacy_universalner.data.formats.convert import Converter, format_of

SHOWN = 10


def main(
    source: Path = typer.Argument(..., exists=True, dir_okay=False, help="File to read"),
    target: Path = typer.Argument(..., dir_okay=False, help="File to write"),
    source_format: str = typer.Option(None, "--from", help="Format, if the suffix does not say"),
    target_format: str = typer.Option(None, "--to", help="Format, if the suffix does not say"),
    lang: str = typer.Option("en", help="Language of the tokenizer"),
    spans_key: str = typer.Option(None, help="Entities in doc.spans[...] and not doc.ents"),
    tags: str = typer.Option(None, help="CoNLL: the tags are the first or last column"),
    labels: Path = typer.Option(
        None, exists=True, help='JSON of new names such as {"PER": "person", "MISC": null}'
    ),
    dataset: str = typer.Option(None, help="Conversations: name of the data set"),
) -> None:
    """Formats: passages and conversations (JSONL), spacy, conll, pile-ner (JSON), nuner.

    The suffixes .jsonl, .spacy, .conll .bio .iob .tsv .txt, .json and .csv .parquet stand for
    passages, spacy, conll, pile-ner and nuner.
    """
    if tags not in (None, "first", "last"):
        msg.fail(f"--tags {tags}: expected first or last", exits=1)
    convert = Converter(
        spacy.blank(lang),
        spans_key=spans_key,
        tags=tags,
        dataset=dataset,
        labels={} if labels is None else json.loads(labels.read_text("utf8")),
    )
    try:
        convert(source, format_of(source, source_format), target, format_of(target, target_format))
    except (ImportError, ValueError) as error:
        msg.fail(str(error), exits=1)
    for id, reject in convert.rejects[:SHOWN]:
        msg.warn(f"{id}: left out {reject.item!r}: {reject.reason}")
    if convert.rejects[SHOWN:]:
        msg.warn(f"and {len(convert.rejects) - SHOWN:,} more")
    msg.good(f"{target}: {convert.count:,} texts, {len(convert.rejects):,} entities left out")


if __name__ == "__main__":
    typer.run(main)
