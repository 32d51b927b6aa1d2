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
from scripts.train_few_shot import MADE_FROM
from spacy_universalner.evaluation.provenance import checksum, folder_checksums, provenance

WEIGHTS = (".safetensors", ".bin")
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
    found = []
    for pipeline in find_pipelines(training):
        encoder, k, seed = describe(pipeline.relative_to(training))
        config = spacy.util.load_config(pipeline / "config.cfg")
        run = {"encoder": encoder, "k": k, "seed": seed, "pipeline": str(pipeline)}
        run |= {"sentences": count_sentences(config), "config": config}
        found.append(run | {"made_from": read_made_from(pipeline, k, config)})
    if not found:
        msg.fail(f"No trained pipeline in {training}", exits=1)
    runs, left_out = leave_out(found)
    for run in tqdm(runs, unit="pipeline"):
        run |= evaluate(run["pipeline"], data, use_gpu=gpu_id, silent=True)
        if run["k"] is None:
            passages = [(passage, data.stem) for passage in read_gold(data)]
            predictions = predict(spacy.load(run["pipeline"]), passages, "nuner")
            write_predictions(output.with_suffix(f".{run['encoder']}.jsonl"), predictions)
    results = {
        **{"runs": runs, "summary": summarize(runs), "left_out": left_out},
        "provenance": provenance([data]),
    }
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


def read_made_from(pipeline: Path, k: int | None, config: Config) -> dict[str, Any] | None:
    """Encoder and training data of a run, with their checksums.

    `train_few_shot` has written them down; `spacy train`, for a run on all data, has not: there
    they are taken as they are now. None for the few-shot runs of earlier versions.
    """
    written = pipeline.parent / MADE_FROM
    if written.is_file():
        return json.loads(written.read_text("utf8"))
    if k is not None:
        return None
    paths = config.get("paths", {})
    encoder, train = paths.get("encoder"), paths.get("train")
    try:
        weights = folder_checksums(encoder) if encoder else {}
    except (ImportError, ValueError):  # the embedded encoder is not installed here
        weights = {}
    data = {train: checksum(Path(train))} if train and Path(train).exists() else {}
    return {"encoder": encoder, "data": data, "weights": weights}


def leave_out(runs: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Part the runs of earlier weights of an encoder, which must not be averaged with the others.

    The weights that count are those of the run on all data; if they are not there any more, those
    of the newest few-shot run.
    """
    left_out = []
    for encoder in dict.fromkeys(run["encoder"] for run in runs):
        own = [run for run in runs if run["encoder"] == encoder]
        told = [run for run in own if identify(run)]
        last = max(told, key=lambda run: (run["k"] is None, created(run)), default=None)
        left_out += [run["pipeline"] for run in told if identify(run) != identify(last)]
        unknown = [run["pipeline"] for run in own if run["made_from"] is None]
        if unknown:
            msg.warn(
                f"{encoder}: no {MADE_FROM} tells which weights {len(unknown)} runs were trained "
                f"from, such as {unknown[0]}: they count",
                "To be sure of them, train them anew with `train_few_shot`.",
            )
    if left_out:
        msg.warn(
            f"Left out are runs from other weights of their encoder: {', '.join(left_out)}",
            "Train them anew with `train_few_shot`, or delete them.",
        )
    return [run for run in runs if run["pipeline"] not in left_out], left_out


def identify(run: dict[str, Any]) -> frozenset[str] | str | None:
    """What tells a run's encoder from others: its weights, or the name of one on a hub."""
    made_from = run["made_from"] or {}
    files = made_from.get("weights", {}).items()
    weights = frozenset(digest for path, digest in files if Path(path).suffix in WEIGHTS)
    return weights or (None if run["k"] is None else made_from.get("encoder"))


def created(run: dict[str, Any]) -> str:
    """When a run was trained, if it says so."""
    return run["made_from"].get("created", "")


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
