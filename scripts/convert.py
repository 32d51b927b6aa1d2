"""Convert annotated texts from one format to another."""

import json
from pathlib import Path

import spacy
import typer
from wasabi import msg

from spacy_universalner.data.formats.convert import Converter, format_of, suffix_of
from spacy_universalner.data.readers import check_paths

SHOWN = 10


def main(
    files: list[Path] = typer.Argument(
        ..., metavar="SOURCE... TARGET", help="Files to read; file to write, or with --to a folder"
    ),
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
    passages, spacy, conll, pile-ner and nuner. In a folder the files keep their names.
    """
    *sources, target = files
    folder = len(sources) > 1 or target.is_dir()
    if not sources or not all(source.is_file() for source in sources):
        absent = ", ".join(str(source) for source in sources if not source.is_file())
        msg.fail(f"Expected files to read and a target, found {absent or target} only", exits=1)
    if folder and target_format is None:
        msg.fail(f"For files in {target} name their format, such as --to spacy", exits=1)
    if tags not in (None, "first", "last"):
        msg.fail(f"--tags {tags}: expected first or last", exits=1)
    convert = Converter(
        spacy.blank(lang),
        spans_key=spans_key,
        tags=tags,
        dataset=dataset,
        labels={} if labels is None else json.loads(labels.read_text("utf8")),
    )
    paths = [target / f"{source.stem}{suffix_of(target_format)}" for source in sources]
    paths = paths if folder else [target]
    if len(set(paths)) < len(paths):
        same = next(path for path in paths if paths.count(path) > 1)
        msg.fail(f"Several files would be written to {same}: convert them one by one", exits=1)
    try:
        check_paths(sources, paths)
    except ValueError as error:
        msg.fail(str(error), exits=1)
    for source, path in zip(sources, paths, strict=True):
        try:
            convert(source, format_of(source, source_format), path, format_of(path, target_format))
        except (ImportError, ValueError) as error:
            msg.fail(str(error), exits=1)
        msg.good(f"{path}")
    for id, reject in convert.rejects[:SHOWN]:
        msg.warn(f"{id}: left out {reject.item!r}: {reject.reason}")
    if convert.rejects[SHOWN:]:
        msg.warn(f"and {len(convert.rejects) - SHOWN:,} more")
    for key, number in sorted(convert.unread.items()):
        msg.warn(
            f"{number:,} texts have spans under '{key}', which were not read: --spans-key {key}"
        )
    msg.good(f"{convert.count:,} texts, {len(convert.rejects):,} entities left out")


if __name__ == "__main__":
    typer.run(main)
