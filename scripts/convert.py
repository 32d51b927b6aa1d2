"""Convert annotated texts from one format to another."""

from pathlib import Path

import spacy
import typer
from tqdm import tqdm
from wasabi import msg

from spacy_universalner.data.readers import passages_to_docbin, read_passages


def main(
    source: Path = typer.Argument(..., exists=True, dir_okay=False, help="JSONL of passages"),
    target: Path = typer.Argument(..., help="The .spacy file"),
    lang: str = typer.Option("en", help="Language of the tokenizer"),
    spans_key: str = typer.Option(None, help="Entities into doc.spans[...] and not doc.ents"),
) -> None:
    """Write TARGET in the format that its suffix names."""
    passages = list(read_passages(source))
    docbin, rejects = passages_to_docbin(
        spacy.blank(lang), tqdm(passages, unit="text"), spans_key=spans_key
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    docbin.to_disk(target)
    for id, reject in rejects:
        msg.warn(f"{id}: {reject.item!r} left out: {reject.reason}")
    entities = sum(len(passage.mentions) for passage in passages)
    msg.good(f"{target}: {len(docbin)} texts, {entities - len(rejects)} entities")


if __name__ == "__main__":
    typer.run(main)
