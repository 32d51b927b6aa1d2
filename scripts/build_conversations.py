"""Turn annotated texts into the conversations that UniversalNER is trained on."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import get_args

import typer
from tqdm import tqdm
from wasabi import msg

from spacy_universalner.data.conversations import TextSplit, build_conversations
from spacy_universalner.data.negatives import NegativeSampler, Strategy
from spacy_universalner.data.readers import (
    check_paths,
    read_passages,
    write_conversations,
    write_passages,
)
from spacy_universalner.evaluation.provenance import provenance
from spacy_universalner.ty import Conversation, Passage


def main(
    output: Path = typer.Argument(..., file_okay=False, help="Folder of the outputs"),
    passages: list[Path] = typer.Option(
        [], exists=True, help="JSONL; a part is held out for evaluation"
    ),
    sentences: list[Path] = typer.Option([], exists=True, help="JSONL; never held out"),
    negatives: str = typer.Option("frequency", help=", ".join(get_args(Strategy))),
    negatives_per_positive: float = typer.Option(1.0, min=0.0, help="Absent types per type"),
    ask: str = typer.Option("label", help="label, or description to ask by definition"),
    dataset: str = typer.Option(None, help="Name for the dataset-specific template"),
    held_out: float = typer.Option(0.1, min=0.0, max=1.0, help="Share of passages held out"),
    dev: float = typer.Option(0.02, min=0.0, max=1.0, help="Share of texts for dev"),
    seed: int = typer.Option(0, help="Of negatives, order of questions and split"),
    metrics: Path = typer.Option(None, help="JSON of counts"),
) -> None:
    """Write conversations_train.jsonl, conversations_dev.jsonl and uniner_heldout.jsonl.

    Texts are split, not conversations: the same text never stands in two of the files.
    """
    if not passages and not sentences:
        msg.fail("Nothing to do: name annotated texts with --passages or --sentences", exits=1)
    names = ("conversations_train", "conversations_dev", "uniner_heldout")
    try:
        NegativeSampler({}, negatives)
        check_paths([*passages, *sentences], (output / f"{name}.jsonl" for name in names))
    except ValueError as error:
        msg.fail(str(error), exits=1)
    split = TextSplit(held_out=held_out, dev=dev, seed=seed)

    def read(wanted: str) -> Iterator[Passage]:
        for path in [*passages, *sentences]:
            for passage in read_passages(path, label=ask):
                if split(passage.text, may_hold_out=path in passages) == wanted:
                    yield passage

    def counted(name: str, conversations: Iterable[Conversation]) -> Iterator[Conversation]:
        for conversation in tqdm(conversations, desc=name, unit="text"):
            positives = sum(bool(question.answers) for question in conversation.questions)
            count = {"texts": 1, "questions": len(conversation.questions), "positives": positives}
            counts[name].update(count)
            yield conversation

    counts = {name: Counter[str]() for name in ("train", "dev", "heldout")}
    type_counts: Counter[str] = Counter()
    try:
        held = write_passages(output / "uniner_heldout.jsonl", read("heldout"))
    except ValueError as error:
        msg.fail(str(error), exits=1)
    counts["heldout"]["texts"] = held
    for passage in read("train"):
        type_counts.update(mention.label for mention in passage.mentions)
    sampler = NegativeSampler(type_counts, negatives)
    for name in ("train", "dev"):
        conversations = build_conversations(
            read(name),
            sampler,
            negatives_per_positive=negatives_per_positive,
            dataset=dataset,
            seed=seed,
        )
        path = output / f"conversations_{name}.jsonl"
        write_conversations(path, counted(name, conversations))
    msg.table(
        [
            (name, *(f"{count[key]:,}" for key in ("texts", "questions", "positives")))
            for name, count in counts.items()
        ],
        header=("split", "texts", "questions", "with an answer"),
        aligns=("l", "r", "r", "r"),
    )
    if not counts["train"]["questions"]:
        msg.fail(
            f"No text to train on has an entity with the key '{ask}'",
            "Name a key of the entities with --ask: label, or description where they have one",
            exits=1,
        )
    msg.good(f"{output}: conversations over {len(type_counts):,} types")
    if metrics is not None:
        metrics.parent.mkdir(parents=True, exist_ok=True)
        report = {
            **{"types": len(type_counts), "splits": counts},
            **{"negatives": negatives, "negatives_per_positive": negatives_per_positive},
            **{"ask": ask, "dataset": dataset, "held_out": held_out, "dev": dev, "seed": seed},
            "provenance": provenance([*passages, *sentences]),
        }
        metrics.write_text(json.dumps(report, indent=2) + "\n", encoding="utf8")


if __name__ == "__main__":
    typer.run(main)
