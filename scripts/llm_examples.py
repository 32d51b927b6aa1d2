"""Turn a few-shot sample into the examples that spacy-llm puts into its prompts (NuNER 6)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import srsly
import typer
from spacy.tokens import Doc
from wasabi import msg

from spacy_universalner.data.readers import check_paths, read_docs
from spacy_universalner.evaluation.provenance import checksum

WRITERS = {
    ".jsonl": srsly.write_jsonl,
    ".json": srsly.write_json,
    ".yml": srsly.write_yaml,
    ".yaml": srsly.write_yaml,
}


def main(
    sample: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="JSON that sample_few_shot wrote")
    ],
    output: Annotated[Path, typer.Argument(dir_okay=False, help="Examples: .jsonl, .json or .yml")],
    data: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="What was drawn from, if it was moved"),
    ] = None,
) -> None:
    """Write the sentences at the saved indices in the format of `spacy.NER.v3`."""
    if output.suffix not in WRITERS:
        msg.fail(f"Cannot write {output}", f"Expected {', '.join(WRITERS)}.", exits=1)
    drawn = json.loads(sample.read_text("utf8"))
    if not isinstance(drawn, dict) or not {"data", "sha256", "indices"} <= set(drawn):
        msg.fail(f"{sample} is no sample", "Draw one: python -m scripts.sample_few_shot", exits=1)
    source = data or Path(drawn["data"])
    if not source.is_file():
        msg.fail(f"{source}, from which {sample} was drawn, is missing", "Give --data.", exits=1)
    if checksum(source) != drawn["sha256"]:
        msg.fail(
            f"{source} is not the file from which {sample} was drawn",
            f"Its sha256 is {checksum(source)}, expected {drawn['sha256']}. Draw a new sample.",
            exits=1,
        )
    try:
        check_paths([sample, source], [output])
    except ValueError as error:
        msg.fail(str(error), exits=1)
    docs = list(read_docs(source))
    examples = make_examples([docs[index] for index in drawn["indices"]])
    output.parent.mkdir(parents=True, exist_ok=True)
    WRITERS[output.suffix](output, examples)
    labels = sorted({span["label"] for example in examples for span in example["spans"]})
    msg.good(f"{output}: {len(examples)} examples, for --components.llm.task.labels:")
    typer.echo(",".join(labels))


def make_examples(docs: Sequence[Doc]) -> list[dict[str, Any]]:
    """Sentences with their entities as answers, in spacy-llm's format for `spacy.NER.v3`."""
    return [
        {
            "text": doc.text,
            "spans": [
                {
                    "text": ent.text,
                    "is_entity": True,
                    "label": ent.label_,
                    "reason": f"is a {ent.label_}",
                }
                for ent in doc.ents
            ],
        }
        for doc in docs
    ]


if __name__ == "__main__":
    typer.run(main)
