"""Score `universal_ner`'s model on UniversalNER's evaluation records as the released evaluator."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import spacy
import typer
from tqdm import tqdm
from wasabi import msg

from scripts.evaluate import path_of_answers
from spacy_universalner.data.formats.pile_ner import read_pile_ner
from spacy_universalner.evaluation.metrics import (
    RELEASED_EPSILON,
    Counts,
    bootstrap_interval,
    count_strings,
    total,
)
from spacy_universalner.evaluation.provenance import provenance
from spacy_universalner.universal_ner.asking import ask
from spacy_universalner.universal_ner.parser import parse_list, parse_strict
from spacy_universalner.universal_ner.prompt import build_prompts, format_answer


def main(
    pipeline: Annotated[Path, typer.Argument(exists=True, help="Pipeline with `universal_ner`")],
    records: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="Records as they were published")
    ],
    output: Annotated[Path, typer.Argument(dir_okay=False, help="JSON of the results")],
    component: Annotated[str, typer.Option(help="Name of `universal_ner`")] = "universal_ner",
    template: Annotated[str, typer.Option(help="Wording of the questions")] = "serve",
    limit: Annotated[int | None, typer.Option(min=1, help="Texts at most")] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap")] = 0,
    gpu_id: Annotated[int, typer.Option(help="GPU, or -1 for none")] = -1,
) -> None:
    """Write OUTPUT with precision, recall and F1, and with every answer OUTPUT as .jsonl.

    `released` reads answers as the released evaluator does, `tolerant` as `universal_ner` does.
    """
    answered = path_of_answers(output, [records])
    if gpu_id >= 0:
        spacy.require_gpu(gpu_id)
    nlp = spacy.load(pipeline)
    model = nlp.get_pipe(component).model
    conversations = list(read_pile_ner(records))[:limit]
    groups = [
        build_prompts(
            conversation.text,
            [question.type for question in conversation.questions],
            template=template,
            dataset=conversation.dataset,
        )
        for conversation in conversations
    ]
    clock = time.perf_counter()
    errors: Counter[str] = Counter()
    counts: dict[str, list[Counts]] = {"released": [], "tolerant": []}
    output.parent.mkdir(parents=True, exist_ok=True)
    with answered.open("w", encoding="utf8") as file:
        answers = tqdm(ask(model, groups), total=len(groups), unit="text")
        for conversation, responses in zip(conversations, answers, strict=True):
            own: dict[str, list[Counts]] = {"released": [], "tolerant": []}
            for question, answer in zip(conversation.questions, responses, strict=True):
                response = answer.text
                gold = parse_strict(format_answer(question.answers))
                own["released"].append(count_strings(gold, parse_strict(response)))
                items = [item.text for item in parse_list(response)[0]]
                own["tolerant"].append(count_strings(gold, items))
                row = {"id": conversation.id, "type": question.type, "gold": gold}
                row["answer"] = response
                if answer.error is not None:
                    errors[answer.error] += 1
                    row["error"] = answer.error
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            for reading, each in own.items():
                counts[reading].append(total(each))
    seconds = time.perf_counter() - clock
    if errors:
        msg.warn(
            f"{errors.total():,} of {sum(map(len, groups)):,} questions have no answer and count "
            f"as answered with nothing, such as: {next(iter(errors))}"
        )
    results = {
        "pipeline": str(pipeline),
        "template": template,
        "limit": limit,
        "seed": seed,
        "texts": len(conversations),
        "questions": sum(map(len, groups)),
        "unanswered": errors.total(),
        "seconds": round(seconds, 2),
        **{reading: summarize(per_text, seed) for reading, per_text in counts.items()},
        "provenance": provenance([records]),
        "config": nlp.config,
    }
    output.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", "utf8")
    for reading in counts:
        scores = (f"{100 * results[reading][name]:.2f}" for name in ("precision", "recall", "f1"))
        msg.text("P {}  R {}  F1 {}  ({})".format(*scores, reading))
    msg.good(f"{output}")


def summarize(per_text: list[Counts], seed: int) -> dict[str, float]:
    """The released evaluator's scores, with an interval and what they are made of."""
    counts = total(per_text)
    low, high = bootstrap_interval(per_text, epsilon=RELEASED_EPSILON, seed=seed)
    scores = counts.scores(RELEASED_EPSILON)._asdict()
    return {**scores, "low": low, "high": high, **counts._asdict()}


if __name__ == "__main__":
    typer.run(main)
