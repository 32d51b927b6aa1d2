"""Ask `universal_ner` about public data sets it was not trained on (UniversalNER, Table 3)."""

import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import spacy
import typer
from wasabi import msg

from scripts.evaluate import load_weights, predict, warn_unanswered, write_predictions
from spacy_universalner.data.formats.conll import read_conll
from spacy_universalner.evaluation.benchmarks import BENCHMARKS, ZERO_SHOT
from spacy_universalner.evaluation.provenance import provenance
from spacy_universalner.evaluation.results import make_results
from spacy_universalner.ty import Passage

METRICS = {"span": "strict spans", "string_set": "string sets"}


def main(
    pipeline: Annotated[Path, typer.Argument(exists=True, help="Pipeline with `universal_ner`")],
    data: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of the sets")],
    output: Annotated[Path, typer.Argument(file_okay=False, help="Folder of the results")],
    benchmark: Annotated[
        list[str] | None, typer.Option(help="Which; all those in the folder by default")
    ] = None,
    component: Annotated[str, typer.Option(help="Name of `universal_ner`")] = "universal_ner",
    limit: Annotated[int | None, typer.Option(min=1, help="Sentences of each set at most")] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap")] = 0,
    gpu_id: Annotated[int, typer.Option(help="GPU, or -1 for none")] = -1,
) -> None:
    """Write OUTPUT/zero_shot.json and .md, and the predictions on each set as OUTPUT/NAME.jsonl."""
    if gpu_id >= 0:
        spacy.require_gpu(gpu_id)
    keys = benchmark or [key for key in ZERO_SHOT if (data / BENCHMARKS[key].test).is_file()]
    files = {key: data / BENCHMARKS[key].test for key in keys if key in BENCHMARKS}
    absent = [key for key in keys if key not in files or not files[key].is_file()]
    if absent or not keys:
        msg.fail(
            f"{data} has no file of {', '.join(absent or ZERO_SHOT)}",
            "Expected: " + ", ".join(BENCHMARKS[key].test for key in ZERO_SHOT),
            exits=1,
        )
    nlp = spacy.load(pipeline)
    if component not in nlp.pipe_names:
        msg.fail(f"{pipeline} has no '{component}'", f"It has {', '.join(nlp.pipe_names)}", exits=1)
    output.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    for key, path in files.items():
        passages = list(read_conll(path))
        if not passages:
            msg.fail(f"{path} has no sentence: fetch it again", exits=1)
        words = BENCHMARKS[key].words({m.label for passage in passages for m in passage.mentions})
        passages = [keep_labels(passage, words) for passage in passages[:limit]]
        nlp.get_pipe(component).initialize(lambda: (), labels=words)
        load_weights(nlp, component)
        clock = time.perf_counter()
        predictions = list(predict(nlp, [(passage, key) for passage in passages], component))
        seconds = round(time.perf_counter() - clock, 2)
        warn_unanswered(predictions, f"{path}: ")
        scores = make_results(predictions, seed=seed)
        results[key] = {"labels": words, "seconds": seconds, **scores}
        write_predictions(output / f"{key}.jsonl", predictions)
    report = {
        "pipeline": str(pipeline),
        "seed": seed,
        "limit": limit,
        "benchmarks": results,
        "mean": {
            metric: statistics.mean(each[metric]["f1"] for each in results.values())
            for metric in METRICS
        },
        "provenance": provenance(files.values(), [pipeline]),
        "config": nlp.config,
    }
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    (output / "zero_shot.json").write_text(text, "utf8")
    (output / "zero_shot.md").write_text(make_table(report, pipeline.name), "utf8")
    msg.text(make_table(report, pipeline.name))
    msg.good(f"{output}/zero_shot.json, {output}/zero_shot.md")


def keep_labels(passage: Passage, labels: dict[str, str]) -> Passage:
    """A passage with the mentions of some labels only."""
    return replace(passage, mentions=tuple(m for m in passage.mentions if m.label in labels))


def make_table(report: dict[str, Any], name: str) -> str:
    """Table 3's layout in Markdown, with the published figures below."""
    results = report["benchmarks"]
    header = ["Model", "Metric", *(BENCHMARKS[key].name for key in results), "Mean"]
    rows = []
    for metric, called in METRICS.items():
        figures = [f"{100 * each[metric]['f1']:.1f}" for each in results.values()]
        rows.append([name, called, *figures, f"{100 * report['mean'][metric]:.1f}"])
    systems = dict.fromkeys(s for key in results for s in BENCHMARKS[key].published)
    for system in systems:
        scores = [BENCHMARKS[key].published.get(system) for key in results]
        known = [score for score in scores if score is not None]
        figures = ["" if score is None else f"{score:.1f}" for score in scores]
        rows.append([f"{system} (published)", METRICS["string_set"], *figures])
        rows[-1].append(f"{statistics.mean(known):.1f}")
    rule = ["---", "---", *["---:"] * (len(header) - 2)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, rule, *rows]) + "\n"


if __name__ == "__main__":
    typer.run(main)
