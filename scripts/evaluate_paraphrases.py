"""Ask for each type in several ways, and measure how far the answers agree (UniversalNER 5.5)."""

import json
from pathlib import Path
from typing import Annotated

import spacy
import typer
from wasabi import msg

from scripts.evaluate import ask, read_gold, warn_unanswered
from spacy_universalner.data.readers import check_paths
from spacy_universalner.evaluation.metrics import RELEASED_EPSILON, count_strings, total
from spacy_universalner.evaluation.provenance import provenance
from spacy_universalner.evaluation.results import Prediction
from spacy_universalner.evaluation.robustness import measure_agreement


def main(
    pipeline: Annotated[Path, typer.Argument(exists=True, help="Pipeline with `universal_ner`")],
    data: Annotated[Path, typer.Argument(exists=True, help="Gold data, .spacy or JSONL")],
    paraphrases: Annotated[
        Path, typer.Argument(exists=True, help="JSON: for each label the ways to ask for it")
    ],
    output: Annotated[Path, typer.Argument(dir_okay=False, help="JSON of the results")],
    component: Annotated[str, typer.Option(help="Name of `universal_ner`")] = "universal_ner",
    limit: Annotated[int | None, typer.Option(min=1, help="Texts at most")] = None,
    gpu_id: Annotated[int, typer.Option(help="GPU, or -1 for none")] = -1,
) -> None:
    """Write OUTPUT: for each label the string-set F1 of each paraphrase, and their agreement."""
    try:
        check_paths([data, paraphrases], [output])
        ways = read_ways(paraphrases)
    except ValueError as error:
        msg.fail(str(error), exits=1)
    if gpu_id >= 0:
        spacy.require_gpu(gpu_id)
    types = tuple(dict.fromkeys(way for each in ways.values() for way in each))
    passages = [(passage, data.stem) for passage in read_gold(data, limit)]
    known = {mention.label for passage, _ in passages for mention in passage.mentions}
    if not passages:
        msg.fail(f"{data} has no text", exits=1)
    if unknown := sorted(set(ways) - known):
        msg.warn(
            f"No text of {data} has an entity labelled {', '.join(unknown)}: there F1 is 0",
            f"Its labels: {', '.join(sorted(known)) or 'none'}",
        )
    nlp = spacy.load(pipeline)
    predictions = list(ask(nlp, passages, component, [types] * len(passages)))
    warn_unanswered(predictions)
    results = {}
    for label, asked in ways.items():
        answers = [[(each.strings or {}).get(way, ()) for way in asked] for each in predictions]
        golds = [
            [p.passage.text[m.start : m.end] for m in p.passage.mentions if m.label == label]
            for p in predictions
        ]
        f1 = {}
        for place, way in enumerate(asked):
            pairs = zip(golds, answers, strict=True)
            counts = total(count_strings(gold, answer[place]) for gold, answer in pairs)
            f1[way] = counts.scores(RELEASED_EPSILON).f1
        heard = [
            [strings for way, strings in zip(asked, answer, strict=True) if answered(each, way)]
            for each, answer in zip(predictions, answers, strict=True)
        ]
        # What was not answered neither agrees nor differs.
        agreement = measure_agreement(each for each in heard if len(each) > 1)
        missing = sum(len(asked) - len(each) for each in heard)
        results[label] = {"f1": f1, **agreement._asdict(), "unanswered": missing}
        scores = ", ".join(f"{way} {100 * score:.1f}" for way, score in f1.items())
        msg.text(f"{label}: {results[label]['answered_rate']:.0%} agree where answered; {scores}")
    output.parent.mkdir(parents=True, exist_ok=True)
    report = {"pipeline": str(pipeline), "limit": limit, "labels": results}
    report |= {"provenance": provenance([data, paraphrases], [pipeline]), "config": nlp.config}
    output.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", "utf8")
    msg.good(f"{output}")


def answered(prediction: Prediction, way: str) -> bool:
    """Whether a type was answered for; "" stands for all types at once."""
    return not {way, ""} & prediction.unanswered.keys()


def read_ways(path: Path) -> dict[str, list[str]]:
    """For each label the ways to ask for it, at least two."""
    ways = json.loads(path.read_text("utf8"))
    for label, asked in ways.items() if isinstance(ways, dict) else [("", None)]:
        if not isinstance(asked, list) or len(asked) < 2:
            raise ValueError(
                f'{path}: expected for each label at least two ways to ask, such as {{"PER": '
                f'["person", "human being"]}}; found {label!r}: {asked!r}'
            )
    return ways


if __name__ == "__main__":
    typer.run(main)
