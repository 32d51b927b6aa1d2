"""Tables and learning curves of the few-shot protocols, in the paper's layout."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from wasabi import msg

from scripts.evaluate_fine_tuned import SCORES
from scripts.evaluate_fine_tuned import make_table as make_fine_tuned_table
from spacy_universalner.evaluation.benchmarks import BENCHMARKS, PUBLISHED_FEW_SHOT
from spacy_universalner.evaluation.figures import (
    Point,
    draw_learning_curve,
    draw_learning_curves,
    standalone,
)

# Systems as `weasel run few-shot` names them, weakest first.
NAMES = {"base": "base encoder", "closed": "ordinary classifier", "nuner": "NuNER"}
SIZE_UNIT = "examples of each type"
Runs = Mapping[str, Sequence[Mapping[str, Any]]]


def main(
    metrics: Annotated[
        Path,
        typer.Argument(exists=True, file_okay=False, help="Folder of few_shot and fine_tuned.json"),
    ],
    output: Annotated[Path, typer.Argument(file_okay=False, help="Folder of the report")],
) -> None:
    """Write OUTPUT/few_shot.md and beside it the curves as SVG.

    Without fine_tuned.json, the frozen protocol stands there alone.
    """
    paths = [metrics / f"{name}.json" for name in ("few_shot", "fine_tuned")]
    if not paths[0].is_file():
        msg.fail(f"{paths[0]} is missing", "Run `weasel run few-shot`.", exits=1)
    frozen = json.loads(paths[0].read_text("utf8"))
    if not paths[1].is_file():
        msg.warn(f"{paths[1]} is missing: the report has the frozen protocol alone")
    tuned = json.loads(paths[1].read_text("utf8")) if paths[1].is_file() else None
    tuned_runs = tuned["runs"] if tuned else []
    used = {*frozen["systems"], *(run["encoder"] for run in tuned_runs)}
    if unknown := sorted(used - set(NAMES)):
        msg.fail(f"Unknown systems: {', '.join(unknown)}", f"Expected {', '.join(NAMES)}.", exits=1)
    runs = {name: frozen["systems"][name]["runs"] for name in NAMES if name in frozen["systems"]}
    figures = {
        "few_shot_mean": draw_learning_curve(
            {name: mean_points(each) for name, each in runs.items()}, NAMES, SIZE_UNIT
        ),
        "few_shot_sets": draw_learning_curves(
            {
                title(key): {name: points(each[key]) for name, each in runs.items()}
                for key in next(iter(runs.values()))
            },
            NAMES,
            "token macro-F1, %",
            SIZE_UNIT,
        ),
    }
    if tuned:
        figures["few_shot_fine_tuned"] = draw_learning_curves(
            fine_tuned_curves(tuned_runs), NAMES, "entity micro-F1, %", SIZE_UNIT
        )
    output.mkdir(parents=True, exist_ok=True)
    for name, svg in figures.items():
        (output / f"{name}.svg").write_text(standalone(svg), "utf8")
    (output / "few_shot.md").write_text(make_page(runs, frozen, tuned), "utf8")
    msg.good(f"{output}/few_shot.md, {', '.join(f'{name}.svg' for name in figures)}")


def title(data: str) -> str:
    """A data set's name as in tables."""
    return BENCHMARKS[data].name if data in BENCHMARKS else data


def points(runs: Iterable[Mapping[str, Any]], score: str = "macro_f1") -> list[Point]:
    """The learning curve of one system on one data set."""
    scores: dict[int, list[float]] = {}
    for run in runs:
        scores.setdefault(run["k"], []).append(run[score])
    return [Point(k, f"{k}", values) for k, values in sorted(scores.items())]


def mean_points(runs: Runs) -> list[Point]:
    """The learning curve of one system: each run's score is the mean over the data sets."""
    curves = [points(each) for each in runs.values()]
    return [
        Point(
            at_k[0].size,
            at_k[0].name,
            [statistics.mean(scores) for scores in zip(*(p.scores for p in at_k), strict=True)],
        )
        for at_k in zip(*curves, strict=True)
    ]


def fine_tuned_curves(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[Point]]]:
    """For each data set and unit of its samples the curves of all systems."""
    panels: dict[str, dict[str, list[Point]]] = {}
    for data, unit in dict.fromkeys((run["data"], run["unit"]) for run in runs):
        chosen = [run for run in runs if (run["data"], run["unit"]) == (data, unit)]
        panels[title(data) + (", words" if unit == "kw" else "")] = {
            name: points((run for run in chosen if run["encoder"] == name), "entity_f1")
            for name in NAMES
            if any(run["encoder"] == name for run in chosen)
        }
    return panels


def make_page(
    runs: Mapping[str, Runs], frozen: Mapping[str, Any], tuned: Mapping[str, Any] | None
) -> str:
    """All tables and figures as one page of Markdown."""
    sets = list(next(iter(runs.values())))
    seeds = len({run["seed"] for run in runs[next(iter(runs))][sets[0]]})
    parts = [
        "# Few-shot transfer\n",
        "## Frozen encoder, linear head\n",
        f"NuNER 4.1: token macro-F1 in per cent, mean of {', '.join(map(title, sets))}; mean ± "
        f"standard deviation of {seeds} training sets, each type at least k and at most 2k times. "
        "The paper's figures are means with OntoNotes 5 as a fourth set, of RoBERTa-base and a "
        "million sentences.\n",
        "![Mean over the data sets](few_shot_mean.svg)\n",
        make_mean_table({name: mean_points(each) for name, each in runs.items()}),
        "![Each data set](few_shot_sets.svg)\n",
        *(
            f"### {title(key)}\n\n"
            + make_set_table({name: points(each[key]) for name, each in runs.items()})
            for key in sets
        ),
    ]
    if tuned:
        parts += [
            "## The whole network fine-tuned\n",
            f"NuNER 6: in per cent after {tuned['epochs']} epochs, mean ± standard deviation over "
            "the samples.\n",
            "![Fine-tuning](few_shot_fine_tuned.svg)\n",
            *(
                f"{name}:\n\n{make_fine_tuned_table(tuned['summary'], score)}"
                for score, name in SCORES.items()
            ),
        ]
    created = [each["provenance"]["created"] for each in (frozen, tuned) if each]
    parts.append(f"Made {' and '.join(created)}.\n")
    return "\n".join(parts)


def make_mean_table(curves: Mapping[str, Sequence[Point]]) -> str:
    """Table 3's layout, with the gain of NuNER over its base, ours and the paper's."""
    header = [NAMES[name] for name in curves]
    if gain := {"nuner", "base"} <= set(curves):
        header.append("gain")
    header += ["RoBERTa (paper)", "NER-BERT data (paper)", "NuNER (paper)", "gain (paper)"]
    rows = []
    for at_k in zip(*curves.values(), strict=True):
        row = [at_k[0].name, *map(show, at_k)]
        if gain:
            mean = {name: point.mean for name, point in zip(curves, at_k, strict=True)}
            row.append(f"{100 * (mean['nuner'] - mean['base']):+.1f}")
        published = PUBLISHED_FEW_SHOT.get(int(at_k[0].size))
        if published:
            row += [f"{score:.1f}" for score in published]
            row.append(f"{published[2] - published[0]:+.1f}")
        rows.append(row + [""] * (len(header) + 1 - len(row)))
    return to_markdown(["k", *header], rows)


def make_set_table(curves: Mapping[str, Sequence[Point]]) -> str:
    """One data set of Figure 13."""
    rows = [[at_k[0].name, *map(show, at_k)] for at_k in zip(*curves.values(), strict=True)]
    return to_markdown(["k", *(NAMES[name] for name in curves)], rows)


def show(point: Point) -> str:
    """Mean and standard deviation in per cent."""
    return f"{100 * point.mean:.1f} ± {100 * point.sd:.1f}"


def to_markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of figures."""
    lines = [header, ["---:"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    typer.run(main)
