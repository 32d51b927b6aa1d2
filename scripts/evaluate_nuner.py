"""Score all pipelines of a `nuner` experiment with `spacy evaluate`, and sum them up."""

import json
import re
import statistics
from pathlib import Path
from typing import Annotated, Any

import spacy
import typer
from spacy.cli.evaluate import evaluate
from spacy.tokens import DocBin
from thinc.api import Config
from tqdm import tqdm
from wasabi import msg

from scripts.evaluate import predict, read_gold, write_predictions
from spacy_universalner.evaluation.provenance import provenance

SCORES = ("ents_p", "ents_r", "ents_f")


def main(
    training: Annotated[
        Path,
        typer.Argument(
            exists=True, file_okay=False, help="Folder of ENCODER/full and ENCODER/.../kK_seedS"
        ),
    ],
    data: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Gold data (.spacy)")],
    output: Annotated[Path, typer.Argument(dir_okay=False, help="JSON of the results")],
    gpu_id: Annotated[int, typer.Option(help="GPU, or -1 for none")] = -1,
) -> None:
    """Write OUTPUT with the scores of each run and, for each encoder and training size, their mean
    and standard deviation; and for each encoder trained on all data the entities that it found in
    each text, in OUTPUT with the suffix .ENCODER.jsonl.
    """
    runs = []
    pipelines = find_pipelines(training)
    if not pipelines:
        msg.fail(f"No trained pipeline in {training}", exits=1)
    for pipeline in tqdm(pipelines, unit="pipeline"):
        encoder, k, seed = describe(pipeline.relative_to(training))
        scores = evaluate(str(pipeline), data, use_gpu=gpu_id, silent=True)
        run = {"encoder": encoder, "k": k, "seed": seed, "pipeline": str(pipeline)}
        config = spacy.util.load_config(pipeline / "config.cfg")
        run |= {"sentences": count_sentences(config), **scores, "config": config}
        runs.append(run)
        if k is None:
            passages = [(passage, data.stem) for passage in read_gold(data)]
            predictions = predict(spacy.load(pipeline), passages, "nuner")
            write_predictions(output.with_suffix(f".{encoder}.jsonl"), predictions)
    results = {"runs": runs, "summary": summarize(runs), "provenance": provenance([data])}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=2) + "\n", "utf8")
    msg.table(
        [
            (row["encoder"], name_size(row["k"]), row["runs"], *map(show, map(row.get, SCORES)))
            for row in results["summary"]
        ],
        header=("encoder", "trained on", "runs", "P", "R", "F1"),
        aligns=("l", "l", "r", "r", "r", "r"),
    )
    msg.good(f"{output}")


def find_pipelines(training: Path) -> list[Path]:
    """The pipeline of each run: the best by dev data, or the last where there was no choice."""
    best = sorted(training.rglob("model-best"))
    last = [path for path in training.rglob("model-last") if path.parent / "model-best" not in best]
    return sorted([*best, *last])


def describe(run: Path) -> tuple[str, int | None, int | None]:
    """Encoder, k and seed of a run by its path; no k for all the data."""
    sample = re.search(r"k(\d+)_seed(\d+)", str(run))
    return (run.parts[0], int(sample[1]), int(sample[2])) if sample else (run.parts[0], None, None)


def count_sentences(config: Config) -> int | None:
    """How many sentences a pipeline was trained on, if its training data is still there."""
    train = config.get("paths", {}).get("train")
    return len(DocBin().from_disk(train)) if train and Path(train).is_file() else None


def summarize(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the seeds, for each encoder and k."""
    groups: dict[tuple[str, int | None], list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault((run["encoder"], run["k"]), []).append(run)
    rows = []
    for (encoder, k), group in groups.items():
        row = {"encoder": encoder, "k": k, "runs": len(group)}
        sizes = [run["sentences"] for run in group]
        row["sentences"] = None if None in sizes else statistics.mean(sizes)
        for score in SCORES:
            values = [run[score] for run in group]
            sd = statistics.stdev(values) if len(values) > 1 else 0.0
            row[score] = {"mean": statistics.mean(values), "sd": sd}
        rows.append(row)
    return rows


def name_size(k: int | None) -> str:
    return "all" if k is None else f"k = {k}"


def show(score: dict[str, float]) -> str:
    return f"{100 * score['mean']:.1f} ± {100 * score['sd']:.1f}"


if __name__ == "__main__":
    typer.run(main)
