"""Fine-tune the whole network on few-shot samples by a fixed schedule, and score it (NuNER 6)."""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from spacy.cli._util import parse_config_overrides
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from wasabi import msg

from scripts.sample_few_shot import Unit, read_sizes
from scripts.side_by_side import side_by_side
from scripts.train_few_shot import fine_tune, parse_encoder
from spacy_universalner.data.readers import read_docs, read_json_lines
from spacy_universalner.evaluation.benchmarks import BENCHMARKS, PUBLISHED_FINE_TUNED
from spacy_universalner.evaluation.metrics import count_tokens, macro_f1
from spacy_universalner.evaluation.provenance import checksum, folder_checksums, provenance

SAMPLE = re.compile(r"(?P<data>.+)_(?P<unit>kw?)(?P<k>\d+)_seed(?P<seed>\d+)")
SCORES = {"entity_f1": "Entity micro-F1", "token_macro_f1": "Token macro-F1"}


class Sample(NamedTuple):
    """A few-shot training set, as `sample_few_shot` names its file."""

    data: str
    unit: str
    k: int
    seed: int
    path: Path


def main(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Training config")],
    samples: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="Folder of NAME_kK_seedS.spacy")
    ],
    output: Annotated[Path, typer.Argument(file_okay=False, help="Folder of the results")],
    encoder: Annotated[list[str], typer.Option(help="NAME=ENCODER, once for each encoder")],
    test: Annotated[
        list[Path],
        typer.Option(exists=True, dir_okay=False, help="NAME_test.spacy, once for each data set"),
    ],
    k: Annotated[
        list[str] | None, typer.Option(help="Sizes, such as 8 or 8,64; all in SAMPLES if not given")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Samples per k, seeds 0, 1, ...; all if not given")
    ] = None,
    unit: Annotated[Unit, typer.Option(help="What k counts in the samples")] = Unit.mentions,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over a sample")] = 30,
    batch_size: Annotated[int, typer.Option(min=1, help="Sentences of a batch")] = 8,
    limit: Annotated[int | None, typer.Option(min=1, help="Test sentences at most")] = None,
    resume: Annotated[bool, typer.Option(help="Keep the runs that OUTPUT has already")] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes at once; default: one a core, 1 on a GPU")
    ] = None,
    gpu_id: Annotated[int, typer.Option(help="GPU, or -1 for none")] = -1,
) -> None:
    """Train every encoder on the samples in SAMPLES of each data set that has a test file.

    Writes a line a run to OUTPUT/fine_tuned.jsonl as it goes, and mean and standard deviation over
    the seeds to OUTPUT/fine_tuned.json and .md. Settings of CONFIG can be overridden as in `spacy
    train`: --components.nuner.model.head mlp.
    """
    overrides = parse_config_overrides(context.args)
    encoders = dict(parse_encoder(pair) for pair in encoder)
    tests = {path.stem.removesuffix("_test"): path for path in test}
    found = choose_samples(samples, tests, unit, read_sizes(k or []), seeds)
    output.mkdir(parents=True, exist_ok=True)
    log = output / "fine_tuned.jsonl"
    made_with = {
        **{"epochs": epochs, "batch_size": batch_size, "limit": limit},
        **{"config": str(config), "overrides": json.loads(json.dumps(overrides))},
        "config_sha256": checksum(config),
    }
    weights = {name: folder_checksums(path) for name, path in encoders.items()}
    files = {
        (name, sample.path.stem): {
            **{str(path): checksum(path) for path in (sample.path, tests[sample.data])},
            **own,
        }
        for sample in found
        for name, own in weights.items()
    }
    earlier = [run for _, run in read_json_lines(log)] if resume and log.is_file() else []
    runs = [
        run
        for run in earlier
        if run["made_with"] == made_with
        and encoders.get(run["encoder"]) == run["path"]
        and files.get((run["encoder"], run["sample"])) == run["files"]
    ]
    if len(runs) < len(earlier):
        other = len(earlier) - len(runs)
        msg.warn(f"{other} of {len(earlier)} runs in {log} have other settings, samples or data")
    done = {(run["encoder"], run["sample"]) for run in runs}
    order = [(name, sample) for sample in found for name in encoders]
    todo = [
        (name, encoders[name], sample)
        for name, sample in order
        if (name, sample.path.stem) not in done
    ]
    train = partial(
        train_and_score,
        config=config,
        tests=tests,
        limit=limit,
        epochs=epochs,
        batch_size=batch_size,
        overrides=overrides,
        gpu_id=gpu_id,
    )
    with log.open("a" if resume else "w", encoding="utf8") as file:
        for run in side_by_side(train, todo, jobs=jobs, gpu_id=gpu_id, desc="Fine-tuning"):
            run |= {"files": files[run["encoder"], run["sample"]], "made_with": made_with}
            print(json.dumps(run), file=file, flush=True)
            runs.append(run)
    ranks = {(name, sample.path.stem): rank for rank, (name, sample) in enumerate(order)}
    runs.sort(key=lambda run: ranks.get((run["encoder"], run["sample"]), len(ranks)))
    results = {
        "runs": runs,
        "summary": summarize(runs),
        **made_with,
        "provenance": provenance(
            [config, *tests.values(), *(sample.path for sample in found)], encoders.values()
        ),
    }
    (output / "fine_tuned.json").write_text(json.dumps(results, indent=1) + "\n", "utf8")
    tables = (f"{title}\n\n{make_table(results['summary'], key)}" for key, title in SCORES.items())
    table = "\n".join(tables)
    (output / "fine_tuned.md").write_text(table, "utf8")
    msg.text(table)
    msg.good(f"{output}/fine_tuned.json, {output}/fine_tuned.md")


def train_and_score(
    run: tuple[str, str, Sample],
    *,
    config: Path,
    tests: Mapping[str, Path],
    limit: int | None,
    epochs: int,
    batch_size: int,
    overrides: dict[str, Any],
    gpu_id: int,
) -> dict[str, Any]:
    """Train an encoder, of a name and a path, on a sample, and score it on the sample's data."""
    name, path, sample = run
    clock = time.perf_counter()
    nlp = fine_tune(
        config,
        path,
        sample.path,
        seed=sample.seed,
        epochs=epochs,
        batch_size=batch_size,
        gpu_id=gpu_id,
        overrides=overrides,
    )
    return {
        "encoder": name,
        "path": path,
        "sample": sample.path.stem,
        **{"data": sample.data, "unit": sample.unit, "k": sample.k, "seed": sample.seed},
        **score(nlp, first_docs(tests[sample.data], limit)),
        "seconds": round(time.perf_counter() - clock, 1),
    }


def choose_samples(
    folder: Path, data: Iterable[str], unit: Unit, sizes: Sequence[int], seeds: int | None
) -> list[Sample]:
    """The samples of some sizes and seeds, or of all those that there are."""
    found = [each for each in find_samples(folder, data) if each.unit == unit.letter]
    chosen, missing = [], []
    for name in data:
        own = {(each.k, each.seed): each for each in found if each.data == name}
        for k in sizes or sorted({k for k, _ in own}) or [8]:
            for seed in range(seeds) if seeds else [s for size, s in own if size == k] or [0]:
                if sample := own.get((k, seed)):
                    chosen.append(sample)
                else:
                    missing.append(f"{name}_{unit.letter}{k}_seed{seed}.spacy")
    if missing:
        msg.fail(
            f"{folder} lacks {', '.join(missing)}",
            "Draw them with `python -m scripts.sample_few_shot`, or take other --k, --seeds or "
            "--unit.",
            exits=1,
        )
    return sorted(set(chosen))


def find_samples(folder: Path, data: Iterable[str]) -> list[Sample]:
    """The few-shot training sets of some data sets, by data set, size and seed."""
    known = set(data)
    samples = []
    for path in folder.glob("*.spacy"):
        match = SAMPLE.fullmatch(path.stem)
        if match and match["data"] in known:
            sizes = int(match["k"]), int(match["seed"])
            samples.append(Sample(match["data"], match["unit"], *sizes, path))
    return sorted(samples)


@lru_cache
def first_docs(path: Path, limit: int | None) -> list[Doc]:
    """The first documents of a `.spacy` file."""
    return list(islice(read_docs(path), limit))


def score(nlp: Language, gold: Sequence[Doc]) -> dict[str, float]:
    """Entity micro-F1, which the paper reports (section 6), and the token macro-F1 of 4.1."""
    found = nlp.pipe(doc.text for doc in gold)
    examples = [Example(*pair) for pair in zip(found, gold, strict=True)]
    expected, predicted = [], []
    for example in examples:
        types = example.get_aligned("ENT_TYPE", as_string=True)
        expected += [type_ or "" for type_ in types]
        predicted += [token.ent_type_ for token in example.predicted]
    entities = nlp.get_pipe("nuner").score(examples)
    return {
        "entity_f1": entities["ents_f"] or 0.0,
        "token_macro_f1": macro_f1(count_tokens(expected, predicted)),
    }


def summarize(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the seeds, for each data set, size and encoder."""
    groups: dict[tuple[str, str, int, str], list[Mapping[str, Any]]] = {}
    for run in runs:
        groups.setdefault((run["data"], run["unit"], run["k"], run["encoder"]), []).append(run)
    rows = []
    for (data, unit, k, encoder), group in groups.items():
        row: dict[str, Any] = {"data": data, "unit": unit, "k": k, "encoder": encoder}
        row["runs"] = len(group)
        for name in SCORES:
            values = [run[name] for run in group]
            sd = statistics.stdev(values) if len(values) > 1 else 0.0
            row[name] = {"mean": statistics.mean(values), "sd": sd}
        rows.append(row)
    return rows


def make_table(summary: Sequence[Mapping[str, Any]], score: str = "entity_f1") -> str:
    """Tables 8 and 9's layout in Markdown; beside entity micro-F1 NuNER's published figures."""
    encoders = list(dict.fromkeys(row["encoder"] for row in summary))
    cells = {(row["data"], row["unit"], row["k"], row["encoder"]): row for row in summary}
    beside = ["NuNER (published)"] if score == "entity_f1" else []
    header = ["data", "examples a type", "runs", *encoders, *beside]
    rows = [header, ["---", *["---:"] * (len(header) - 1)]]
    for data, unit, k in dict.fromkeys(key[:3] for key in cells):
        own = [cells.get((data, unit, k, encoder)) for encoder in encoders]
        published = PUBLISHED_FINE_TUNED.get(k, {}).get(data) if unit == "k" else None
        name = BENCHMARKS[data].name if data in BENCHMARKS else data
        rows.append(
            [
                name,
                f"{k} words" if unit == "kw" else f"{k}",
                f"{max(row['runs'] for row in own if row)}",
                *(show(row[score]) if row else "" for row in own),
                *("{:.1f} ± {:.1f}".format(*published) if published else "" for _ in beside),
            ]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def show(value: Mapping[str, float]) -> str:
    """Mean and standard deviation in per cent."""
    return f"{100 * value['mean']:.1f} ± {100 * value['sd']:.1f}"


app = typer.Typer()
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(main)

if __name__ == "__main__":
    app()
