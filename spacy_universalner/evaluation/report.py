"""The report on a run of the workflow: one HTML page that needs nothing else, and Markdown."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from spacy import displacy

from spacy_universalner.evaluation.figures import (
    COLOURS,
    Point,
    draw_frequencies,
    draw_learning_curve,
    draw_losses,
    standalone,
)
from spacy_universalner.evaluation.metrics import OUTCOMES, count_outcomes
from spacy_universalner.ty import Mention

# How systems are called; the keys name their colours.
SYSTEMS = {
    "base": "Base encoder",
    "nuner": "NuNER",
    "untuned": "Untuned student",
    "tuned": "Tuned student",
}
EXAMPLES = 10
# Grounds for entity types that dark text can stand on.
TYPE_COLOURS = (
    "#a5d8ff",
    "#ffc9a8",
    "#b2f2bb",
    "#ffb3c1",
    "#d0bfff",
    "#ffec99",
    "#99e9d8",
    "#eebefa",
    "#ced4da",
    "#c0eb75",
)
# The file of each figure and the command that makes it.
METRICS = {
    "annotation_nuner": "weasel run annotate",
    "annotation_uniner": "weasel run annotate",
    "nuner": "weasel run evaluate",
    "zero_shot_untuned": "weasel run evaluate",
    "zero_shot_tuned": "weasel run evaluate",
    "heldout_untuned": "weasel run evaluate",
    "heldout_tuned": "weasel run evaluate",
}


# The stages of `weasel run all`: others leave their records beside these.
STAGES = (
    *("student", "annotate", "pretrain", "train", "train-few-shot", "conversations", "finetune"),
    *("assemble", "evaluate"),
)


@dataclass
class Run:
    """All that a run of the workflow has left behind to report on.

    metrics (dict[str, Any]): The contents of the files of `METRICS`.
    predictions (dict[str, list[dict[str, Any]]]): For each system its rows on the gold test set.
    stages (list[dict[str, Any]]): The records of the steps, in the order in which they ran.
    pretraining (dict[str, Any] | None): The log of the contrastive pre-training, if there is one.
    finetuning (dict[str, Any] | None): The log of the instruction tuning, if there is one.
    """

    metrics: dict[str, Any]
    predictions: dict[str, list[dict[str, Any]]]
    stages: list[dict[str, Any]] = field(default_factory=list)
    pretraining: dict[str, Any] | None = None
    finetuning: dict[str, Any] | None = None


def read_run(metrics: Path, training: Path) -> Run:
    """Read what the workflow has left behind.

    metrics (Path): Folder of the metrics.
    training (Path): Folder of the trained models, for their logs.
    RETURNS (Run): Its contents.
    RAISES (FileNotFoundError): A figure is missing; the message says how it is made.
    RAISES (ValueError): A file is damaged.
    """
    files = {metrics / f"{name}.json": command for name, command in METRICS.items()}
    rows = {
        system: metrics / f"{name}.jsonl"
        for system, name in (
            ("base", "nuner.base"),
            ("nuner", "nuner.nuner"),
            ("tuned", "zero_shot_tuned"),
        )
    }
    files |= dict.fromkeys(rows.values(), "weasel run evaluate")
    missing = [f"{path} (made by `{files[path]}`)" for path in files if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"The report needs figures that are not there: {', '.join(missing)}. Run the commands "
            "named, or `weasel run all`."
        )
    stages = [_read(path) for path in sorted((metrics / "stages").glob("*.json"))]
    return Run(
        metrics={name: _read(metrics / f"{name}.json") for name in METRICS},
        predictions={
            # Not `splitlines`: a text may hold what that takes for the end of a line.
            system: [_parse(path, line) for line in path.read_text("utf8").split("\n") if line]
            for system, path in rows.items()
        },
        stages=sorted(
            (stage for stage in stages if stage["stage"] in STAGES),
            key=lambda stage: str(stage["started"]),
        ),
        pretraining=_read(training / "nuner-encoder" / "pretraining.json", optional=True),
        finetuning=_read(training / "uniner" / "finetune.json", optional=True),
    )


def _read(path: Path, optional: bool = False) -> Any:
    if optional and not path.is_file():
        return None
    return _parse(path, path.read_text("utf8"))


def _parse(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): make it anew.") from error


def write_report(run: Run, output: Path) -> list[Path]:
    """Write `index.html`, `report.md` and the figures of the latter.

    run (Run): What is reported.
    output (Path): The folder; made when missing.
    RETURNS (list[Path]): The files.
    """
    environment = Environment(
        loader=PackageLoader("spacy_universalner.evaluation"),
        autoescape=lambda name: name is not None and "html" in name,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"percent": percent, "duration": duration, "count": count}
    figures = draw_figures(run)
    page = {
        "run": run,
        "metrics": run.metrics,
        "systems": SYSTEMS,
        "colours": COLOURS,
        "figures": figures,
        "stages": group_stages(run.stages),
        "shortened": find_shortened(run),
        "seconds": sum(stage["seconds"] for stage in run.stages),
        "nuner": {(row["encoder"], row["k"]): row for row in run.metrics["nuner"]["summary"]},
        "types": compare_types(run.metrics),
        "outcomes": {system: tell_apart(rows) for system, rows in run.predictions.items()},
        "outcome_names": OUTCOMES,
        "examples": show_examples(run.predictions),
        "checksums": gather_checksums(run.metrics.values()),
        "provenance": run.metrics["nuner"]["provenance"],
    }
    (output / "figures").mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in [
        ("index.html", environment.get_template("index.html.jinja").render(page)),
        ("report.md", environment.get_template("report.md.jinja").render(page)),
        *((f"figures/{name}.svg", standalone(svg)) for name, svg in figures.items()),
    ]:
        written.append(output / name)
        written[-1].write_text(text, "utf8")
    return written


def draw_figures(run: Run) -> dict[str, Markup]:
    """Draw all figures that there are numbers for, by name."""
    figures = {
        "learning_curve": draw_learning_curve(learning_curves(run.metrics["nuner"]), SYSTEMS)
    }
    for name, system in (("nuner", "nuner"), ("uniner", "tuned")):
        annotation = run.metrics[f"annotation_{name}"]
        if annotation["type_counts"]:
            figures[f"frequencies_{name}"] = draw_frequencies(
                annotation["type_counts"], annotation["frequency_bands"], system
            )
    if run.pretraining and run.pretraining["epochs"]:
        epochs = run.pretraining["epochs"]
        losses = {"training": [(epoch["epoch"], epoch["loss"]) for epoch in epochs]}
        if "dev_loss" in epochs[0]:
            losses["validation"] = [(epoch["epoch"], epoch["dev_loss"]) for epoch in epochs]
        figures["pretraining"] = draw_losses(losses, "nuner", "epoch")
    if run.finetuning:
        log = run.finetuning["log"]
        losses = {"training": [(e["step"], e["loss"]) for e in log if "loss" in e]}
        if validation := [(e["step"], e["eval_loss"]) for e in log if "eval_loss" in e]:
            losses["validation"] = validation
        if losses["training"]:
            figures["finetuning"] = draw_losses(losses, "tuned", "step")
    return {name: Markup(svg) for name, svg in figures.items()}


def learning_curves(nuner: Mapping[str, Any]) -> dict[str, list[Point]]:
    """F1 over training size for each encoder, from the summary of its runs."""
    curves: dict[str, list[Point]] = {}
    for row in nuner["summary"]:
        name = "all" if row["k"] is None else f"k = {row['k']}"
        size = row["sentences"]
        if size is not None:
            name = f"{name} ({size:.0f} sentences)"
        elif row["k"] is not None:
            size = row["k"]
        else:  # on the axis one step to the right of the largest sample
            size = 10 * max((other["k"] or 1) for other in nuner["summary"])
        runs = [
            run for run in nuner["runs"] if (run["encoder"], run["k"]) == (row["encoder"], row["k"])
        ]
        point = Point(size, name, [run["ents_f"] for run in runs])
        curves.setdefault(row["encoder"], []).append(point)
    return curves


def find_shortened(run: Run) -> list[tuple[str, int, int]]:
    """Trainings that a limit of time has ended before their last step.

    run (Run): What is reported.
    RETURNS (list[tuple[str, int, int]]): The stage, its steps, and those that were planned.
    """
    logs = {"pretrain": run.pretraining, "finetune": run.finetuning}
    counts = {stage: (log["steps"], log["steps_planned"]) for stage, log in logs.items() if log}
    return [
        (stage, steps, planned) for stage, (steps, planned) in counts.items() if steps < planned
    ]


def group_stages(steps: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Steps by stage, with the seconds of each stage."""
    stages: dict[str, dict[str, Any]] = {}
    for step in steps:
        stage = stages.setdefault(step["stage"], {"name": step["stage"], "seconds": 0, "steps": []})
        stage["seconds"] += step["seconds"]
        stage["steps"].append(step)
    return list(stages.values())


def compare_types(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each type of the gold task, its mentions in the test set and F1 of each system."""
    full = {run["encoder"]: run for run in metrics["nuner"]["runs"] if run["k"] is None}
    zero_shot = metrics["zero_shot_tuned"]["per_type"]
    rows = []
    for type_, scores in zero_shot.items():
        row = {"type": type_, "gold": scores["span"]["gold"], "tuned": scores["span"]["f1"]}
        for system in ("base", "nuner"):
            per_type = full.get(system, {}).get("ents_per_type") or {}
            row[system] = per_type.get(type_, {}).get("f", 0.0)
        rows.append(row)
    return [row for row in rows if row["gold"]]


def tell_apart(rows: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """The kinds of right and wrong predictions over all texts."""
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update(count_outcomes(_mentions(row["gold"]), _mentions(row["predicted"])))
    return counts


def _mentions(entities: Iterable[Mapping[str, Any]]) -> list[Mention]:
    return [Mention(entity["start"], entity["end"], entity["label"]) for entity in entities]


def show_examples(predictions: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Texts with their gold entities and what the systems found, by displaCy.

    predictions (Mapping[str, Sequence[Mapping[str, Any]]]): For each system its rows on the same
        texts. Of those with entities, some are taken at equal distances: none is picked by hand.
    RETURNS (list[dict[str, Any]]): `id` and `lines`, pairs of a name and markup.
    """
    by_id = {name: {row["id"]: row for row in predictions[name]} for name in ("nuner", "tuned")}
    rows = [row for row in predictions["nuner"] if row["gold"]]
    chosen = [rows[i * len(rows) // EXAMPLES] for i in range(EXAMPLES)] if rows else []
    labels = sorted({e["label"] for r in predictions["nuner"] for e in r["gold"]})
    examples = []
    for row in {row["id"]: row for row in chosen}.values():
        gold = {(e["start"], e["end"], e["label"]) for e in row["gold"]}
        lines = [("gold", "Gold", _render(row["text"], row["gold"], labels, gold))]
        for system, found in by_id.items():
            if row["id"] in found:
                entities = found[row["id"]]["predicted"]
                lines.append(
                    (system, SYSTEMS[system], _render(row["text"], entities, labels, gold))
                )
        examples.append({"id": row["id"], "lines": lines})
    return examples


def _render(
    text: str,
    entities: Iterable[Mapping[str, Any]],
    labels: Sequence[str],
    gold: set[tuple[int, int, str]],
) -> Markup:
    """displaCy's markup; a cross marks what is not in the gold standard."""
    ents = []
    colours = {}
    for entity in sorted(entities, key=lambda entity: entity["start"]):
        label = entity["label"]
        right = (entity["start"], entity["end"], label) in gold
        shown = str(escape(label)) if right else f"{escape(label)} ✗"
        place = labels.index(label) if label in labels else len(labels)
        colours[shown.upper()] = TYPE_COLOURS[place % len(TYPE_COLOURS)]
        ents.append({"start": entity["start"], "end": entity["end"], "label": shown})
    return Markup(
        displacy.render(
            {"text": text, "ents": ents},
            style="ent",
            manual=True,
            minify=True,
            jupyter=False,
            options={"colors": colours},
        )
    )


def gather_checksums(results: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The sha256 of every file that a result was made from."""
    return {
        path: digest
        for result in results
        for path, digest in result.get("provenance", {}).get("data", {}).items()
    }


def percent(share: float) -> str:
    """A share of 1 in per cent, with one decimal."""
    return f"{100 * share:.1f}"


def duration(seconds: float) -> str:
    """Seconds as one reads them, on one line."""
    if seconds < 10:
        text = f"{seconds:.1f} s"
    elif round(seconds) < 60:
        text = f"{seconds:.0f} s"
    else:
        text = "{} min {:02} s".format(*divmod(round(seconds), 60))
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def count(number: float) -> str:
    """A number with its thousands apart."""
    return f"{number:,.0f}"
