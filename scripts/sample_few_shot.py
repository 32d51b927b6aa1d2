"""Draw few-shot training sets from a `.spacy` file, and keep the indices that were drawn."""

import json
from collections import Counter
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from spacy.tokens import Doc, DocBin
from wasabi import msg

from spacy_universalner.data.readers import read_docs
from spacy_universalner.evaluation.provenance import checksum
from spacy_universalner.evaluation.sampling import sample_mentions, sample_words


class Unit(str, Enum):
    """What k counts."""

    mentions = "mentions"
    words = "words"

    @property
    def letter(self) -> str:
        """What stands before k in the names of files."""
        return "k" if self is Unit.mentions else "kw"


def main(
    data: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="Training data (.spacy)")
    ],
    output_dir: Annotated[Path, typer.Argument(file_okay=False, help="Folder of the samples")],
    k: Annotated[list[str], typer.Option(help="Examples of each type, such as 8 or 8,64")],
    seeds: Annotated[int, typer.Option(min=1, help="Samples per k, with seeds 0, 1, ...")] = 3,
    unit: Annotated[
        Unit, typer.Option(help="mentions: k to 2k mentions of each type; words: exactly k words")
    ] = Unit.mentions,
    max_passes: Annotated[
        int, typer.Option(min=1, help="Passes over the data before giving up")
    ] = 1000,
) -> None:
    """Write NAME_kK_seedS.spacy and, with the indices drawn, NAME_kK_seedS.json.

    NAME is the data's name without `_train`; samples of words are named `kw` instead of `k`.
    """
    if data.suffix != ".spacy":
        msg.fail(f"{data} is no .spacy file", "Convert it: python -m scripts.convert", exits=1)
    docs = list(read_docs(data))
    counts = [count(doc, unit) for doc in docs]
    sample = sample_mentions if unit is Unit.mentions else sample_words
    name = data.stem.removesuffix("_train")
    output_dir.mkdir(parents=True, exist_ok=True)
    for size in read_sizes(k):
        for seed in range(seeds):
            try:
                indices = sample(counts, size, seed=seed, max_passes=max_passes)
            except ValueError as error:
                msg.fail(f"Cannot sample k = {size} from {data}", str(error), exits=1)
            path = output_dir / f"{name}_{unit.letter}{size}_seed{seed}.spacy"
            DocBin(docs=[docs[i] for i in indices], store_user_data=True).to_disk(path)
            drawn = {
                "data": str(data),
                "sha256": checksum(data),
                "k": size,
                "unit": unit.value,
                "seed": seed,
                "counts": dict(sorted(sum((counts[i] for i in indices), Counter()).items())),
                "indices": indices,
            }
            path.with_suffix(".json").write_text(json.dumps(drawn, indent=2) + "\n", "utf8")
            msg.good(f"{path}: {len(indices)} of {len(docs)} sentences")


def read_sizes(given: Iterable[str]) -> list[int]:
    """Read training sizes, with commas between several, as Weasel's variables can hold them."""
    sizes = [size for each in given for size in each.split(",")]
    if not all(size.strip().isdecimal() and int(size) for size in sizes):
        raise typer.BadParameter(
            f"--k {','.join(sizes)}: expected whole numbers of at least 1, with commas between "
            "several, such as 1,4,16."
        )
    return [int(size) for size in sizes]


def count(doc: Doc, unit: Unit) -> Counter[str]:
    """How many mentions, or words, of each type a document has."""
    counts: Counter[str] = Counter()
    for ent in doc.ents:
        counts[ent.label_] += 1 if unit is Unit.mentions else len(ent)
    return counts


if __name__ == "__main__":
    typer.run(main)
