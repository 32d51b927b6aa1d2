"""Frozen few-shot protocol: token vectors once, then a linear layer a training set (NuNER 4.1)."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import spacy
import typer
from spacy.tokens import Doc
from spacy.vocab import Vocab
from tqdm import tqdm
from wasabi import msg

from spacy_universalner.data.formats.conll import read_conll
from spacy_universalner.evaluation.benchmarks import BENCHMARKS, FEW_SHOT, PUBLISHED_FEW_SHOT
from spacy_universalner.evaluation.fewshot import SIZES, TokenSet, run_frozen, summarize_runs
from spacy_universalner.evaluation.provenance import provenance
from spacy_universalner.evaluation.sampling import sample_mentions
from spacy_universalner.nuner.encoder import build_nuner_encoder_v1
from spacy_universalner.ty import Passage

PUBLISHED = ("RoBERTa", "RoBERTa on NER-BERT data", "NuNER")


def main(
    data: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of the sets")],
    output: Annotated[Path, typer.Argument(file_okay=False, help="Folder of the results")],
    encoder: Annotated[list[str], typer.Option(help="NAME=ENCODER, once for each encoder")],
    benchmark: Annotated[list[str], typer.Option(help="Which data sets")] = list(FEW_SHOT),  # noqa: B006
    k: Annotated[list[int], typer.Option(help="Mentions of each type: k to 2k")] = list(SIZES),  # noqa: B006
    seeds: Annotated[int, typer.Option(min=1, help="Training sets for each k")] = 10,
    layer: Annotated[list[int], typer.Option(help="Hidden states to concatenate")] = [-1],  # noqa: B006
    limit: Annotated[int | None, typer.Option(min=1, help="Test sentences at most")] = None,
    gpu_id: Annotated[int, typer.Option(help="GPU, or -1 for none")] = -1,
) -> None:
    """Write OUTPUT/few_shot.json with all scores and samples, and Table 3 as OUTPUT/few_shot.md."""
    if gpu_id >= 0:
        spacy.require_gpu(gpu_id)
    files = {key: (data / BENCHMARKS[key].train, data / BENCHMARKS[key].test) for key in benchmark}
    absent = [str(path) for pair in files.values() for path in pair if not path.is_file()]
    if absent:
        msg.fail(f"Data sets are missing: {', '.join(absent)}", exits=1)
    systems = {}
    samples: dict[str, list[tuple[int, int, list[int]]]] = {}
    for pair in encoder:
        name, _, path = pair.partition("=")
        model = build_nuner_encoder_v1(name=path, layers=layer, freeze="all")
        model.initialize()
        clock = time.perf_counter()
        runs: dict[str, Any] = {}
        for key, (train_path, test_path) in files.items():
            train, test = list(read_conll(train_path)), list(read_conll(test_path))[:limit]
            counts = [Counter(mention.label for mention in passage.mentions) for passage in train]
            if key not in samples:
                samples[key] = [
                    (size, seed, sample_mentions(counts, size, seed=seed))
                    for size in k
                    for seed in range(seeds)
                ]
            drawn = tqdm(samples[key], desc=f"{name} {key}", unit="training set")
            runs[key] = run_frozen(embed(model, train), embed(model, test), drawn)
        table = summarize_runs(runs)
        seconds = round(time.perf_counter() - clock, 1)
        systems[name] = {"encoder": path, "seconds": seconds, "runs": runs, "table": table}
    report = {
        "systems": systems,
        "layers": layer,
        "samples": {
            key: [{"k": k, "seed": seed, "indices": indices} for k, seed, indices in drawn]
            for key, drawn in samples.items()
        },
        "provenance": provenance(path for pair in files.values() for path in pair),
    }
    output.mkdir(parents=True, exist_ok=True)
    (output / "few_shot.json").write_text(json.dumps(report, indent=1) + "\n", "utf8")
    table = make_table({name: each["table"] for name, each in systems.items()})
    (output / "few_shot.md").write_text(table, "utf8")
    msg.text(table)
    msg.good(f"{output}/few_shot.json, {output}/few_shot.md")


def embed(model: Any, passages: list[Passage], batch_size: int = 512) -> TokenSet:
    """Token vectors and types of sentences whose tokens are separated by spaces."""
    docs = [Doc(Vocab(), words=passage.text.split(" ")) for passage in passages]
    vectors = []
    for start in tqdm(range(0, len(docs), batch_size), desc="token vectors", leave=False):
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
