"""Frozen few-shot protocol: token vectors once, then a linear layer a training set (NuNER 4.1)."""

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import spacy
import typer
from spacy.tokens import Doc
from spacy.vocab import Vocab
from tqdm import tqdm
from wasabi import msg

from scripts.sample_few_shot import read_sizes
from scripts.train_few_shot import parse_encoder
from spacy_universalner.data.formats.conll import read_conll
from spacy_universalner.evaluation.benchmarks import BENCHMARKS, FEW_SHOT, PUBLISHED_FEW_SHOT
from spacy_universalner.evaluation.fewshot import TokenSet, run_frozen, summarize_runs
from spacy_universalner.evaluation.provenance import provenance
from spacy_universalner.evaluation.sampling import sample_mentions
from spacy_universalner.nuner.encoder import build_nuner_encoder_v1
from spacy_universalner.ty import Passage

PENALTY = 1e-3
PUBLISHED = ("RoBERTa", "RoBERTa on NER-BERT data", "NuNER")


@dataclass(frozen=True)
class DataSet:
    """A data set with its few-shot training sets.

    train (list[Passage]): The sentences that some training set holds.
    test (list[Passage]): The sentences that are tested on.
    samples (list[tuple[int, int, list[int]]]): k, seed and places in `train` of each training set.
    drawn (list[tuple[int, int, list[int]]]): The same with places in the file.
    """

    train: list[Passage]
    test: list[Passage]
    samples: list[tuple[int, int, list[int]]]
    drawn: list[tuple[int, int, list[int]]]


def main(
    data: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of the sets")],
    output: Annotated[Path, typer.Argument(file_okay=False, help="Folder of the results")],
    encoder: Annotated[list[str], typer.Option(help="NAME=ENCODER, once for each encoder")],
    benchmark: Annotated[list[str], typer.Option(help="Which data sets")] = list(FEW_SHOT),  # noqa: B006
    k: Annotated[
        list[str], typer.Option(help="Mentions of each type, k to 2k; several with commas")
    ] = ["1,2,4,8,16,32,64"],  # noqa: B006
    seeds: Annotated[int, typer.Option(min=1, help="Training sets for each k")] = 10,
    layer: Annotated[list[int], typer.Option(help="Hidden states to concatenate")] = [-1],  # noqa: B006
    limit: Annotated[int | None, typer.Option(min=1, help="Test sentences at most")] = None,
    gpu_id: Annotated[int, typer.Option(help="GPU, or -1 for none")] = -1,
) -> None:
    """Write OUTPUT/few_shot.json with all scores and samples, and Table 3 as OUTPUT/few_shot.md."""
    if gpu_id >= 0:
        spacy.require_gpu(gpu_id)
    encoders = [parse_encoder(pair) for pair in encoder]
    sizes = read_sizes(k)
    sets = read_sets(data, benchmark, sizes, seeds, limit)
    systems = {}
    for name, path in encoders:
        clock = time.perf_counter()
        runs = probe(path, sets, layer, name)
        seconds = round(time.perf_counter() - clock, 1)
        table = summarize_runs(runs)
        systems[name] = {"encoder": path, "seconds": seconds, "runs": runs, "table": table}
    report = {
        "systems": systems,
        "layers": layer,
        "penalty": PENALTY,
        **{"k": sizes, "seeds": seeds, "limit": limit},
        "samples": {
            key: [{"k": k, "seed": seed, "indices": indices} for k, seed, indices in each.drawn]
            for key, each in sets.items()
        },
        "provenance": provenance(
            (path for key in sets for path in files_of(data, key)), [path for _, path in encoders]
        ),
    }
    output.mkdir(parents=True, exist_ok=True)
    (output / "few_shot.json").write_text(json.dumps(report, indent=1) + "\n", "utf8")
    table = make_table({name: each["table"] for name, each in systems.items()})
    (output / "few_shot.md").write_text(table, "utf8")
    msg.text(table)
    msg.good(f"{output}/few_shot.json, {output}/few_shot.md")


def files_of(data: Path, benchmark: str) -> tuple[Path, Path]:
    """The files that a data set is drawn from and tested on."""
    return data / BENCHMARKS[benchmark].train, data / BENCHMARKS[benchmark].test


def read_sets(
    data: Path, benchmarks: list[str], sizes: list[int], seeds: int, limit: int | None = None
) -> dict[str, DataSet]:
    """Read data sets and draw their training sets: the same ones for every encoder."""
    unknown = sorted(set(benchmarks) - set(BENCHMARKS))
    if unknown:
        msg.fail(f"There is no data set {unknown[0]!r}", f"Known: {', '.join(BENCHMARKS)}", exits=1)
    absent = [str(path) for key in benchmarks for path in files_of(data, key) if not path.is_file()]
    if absent:
        msg.fail(
            f"Data sets are missing: {', '.join(absent)}",
            "Fetch them with `weasel assets --extra`, or name the folder that has them.",
            exits=1,
        )
    sets = {}
    for key in benchmarks:
        train_path, test_path = files_of(data, key)
        train = list(read_conll(train_path))
        counts = [Counter(mention.label for mention in passage.mentions) for passage in train]
        try:
            drawn = [
                (size, seed, sample_mentions(counts, size, seed=seed))
                for size in sizes
                for seed in range(seeds)
            ]
        except ValueError as error:
            msg.fail(f"Cannot sample from {train_path}", f"{error} Or take other --k.", exits=1)
        needed = sorted({index for *_, indices in drawn for index in indices})
        place = {index: number for number, index in enumerate(needed)}
        sets[key] = DataSet(
            [train[index] for index in needed],
            list(read_conll(test_path))[:limit],
            [(k, seed, [place[index] for index in indices]) for k, seed, indices in drawn],
            drawn,
        )
    return sets


def probe(
    encoder: str,
    sets: dict[str, DataSet],
    layers: list[int],
    name: str = "",
    *,
    progress: bool = True,
) -> dict[str, list[dict[str, Any]]]:
    """Score an encoder: one pass over each data set, then a head for each training set."""
    model = build_nuner_encoder_v1(name=encoder, layers=layers, freeze="all")
    model.initialize()
    runs = {}
    for key, each in sets.items():
        tokens = embed(model, each.train, progress), embed(model, each.test, progress)
        desc = f"{name} {key}".strip()
        drawn = tqdm(each.samples, desc=desc, unit="training set", disable=not progress)
        runs[key] = run_frozen(*tokens, drawn, penalty=PENALTY)
    return runs


def embed(
    model: Any, passages: list[Passage], progress: bool = True, batch_size: int = 512
) -> TokenSet:
    """Token vectors and types of sentences whose tokens are separated by spaces."""
    docs = [Doc(Vocab(), words=passage.text.split(" ")) for passage in passages]
    vectors = []
    starts = range(0, len(docs), batch_size)
    for start in tqdm(starts, desc="token vectors", leave=False, disable=not progress):
        vectors += [model.ops.to_numpy(each) for each in model.predict(docs[start:][:batch_size])]
    tags = []
    for doc, passage in zip(docs, passages, strict=True):
        types = {
            place: mention.label
            for mention in passage.mentions
            for place in range(mention.start, mention.end)
        }
        tags.append([types.get(token.idx, "") for token in doc])
    return TokenSet(vectors, tags)


def make_table(tables: dict[str, dict[int, Any]]) -> str:
    """Table 3's layout in Markdown, with the published figures beside."""
    sizes = sorted({k for table in tables.values() for k in table})
    header = ["k", *tables, *(f"{name} (published)" for name in PUBLISHED)]
    rows = [header, ["---:"] * len(header)]
    for k in sizes:
        own = [f"{100 * t[k]['mean']:.1f} ± {100 * t[k]['sd']:.1f}" for t in tables.values()]
        published = [f"{score:.1f}" for score in PUBLISHED_FEW_SHOT.get(k, ())] or [""] * 3
        rows.append([f"{k}", *own, *published])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


if __name__ == "__main__":
    typer.run(main)
