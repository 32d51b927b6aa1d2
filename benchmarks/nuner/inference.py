"""How fast `nuner` finds entities, against the other ways to use the same encoder.

    python -m benchmarks.nuner.inference corpus/nuner.jsonl \
        --pipeline training/nuner/nuner/full/model-best --gold corpus/gold_test.spacy

Each system runs in a process of its own, so that its memory is its own. The processes take turns
over several rounds, so that whatever else the machine does hits them alike; the best round counts.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import matplotlib
import spacy
import torch
import typer
from spacy.tokens import DocBin
from spacy.training import Example
from tqdm import tqdm
from transformers.utils import logging

from benchmarks.nuner.systems import SYSTEMS
from spacy_universalner.data.readers import read_passages
from spacy_universalner.evaluation.provenance import provenance
from spacy_universalner.precision import computes_in_bfloat16
from spacy_universalner.pretrained import resolve

matplotlib.use("svg")
import matplotlib.pyplot as plt

HERE = Path(__file__)
REFERENCE = "spaCy transformer + ner"
BESIDE = (REFERENCE, "Hugging Face token classification", "bare forward, sorted")


def main(
    corpus: Path = typer.Argument(..., exists=True, dir_okay=False, help="Passages (JSONL)"),
    encoder: str = typer.Option("embedded", help="Encoder of all systems"),
    sentences: int = typer.Option(1000, help="As many of the corpus' first"),
    rounds: int = typer.Option(4, help="Turns of each system"),
    threads: int = typer.Option(2, help="CPU threads"),
    pipeline: Path | None = typer.Option(None, help="Trained pipeline, to compare precisions"),
    gold: Path | None = typer.Option(None, help="Data to compare them on (.spacy)"),
    system: str | None = typer.Option(None, hidden=True),
) -> None:
    """Measure words per second and memory; write the figures beside this file."""
    torch.set_num_threads(threads)
    logging.set_verbosity_error()
    texts = [passage.text for passage in read_passages(corpus)][:sentences]
    folder = Path(resolve(encoder))
    if system is not None:
        serve(system, folder, texts)
        return
    names = [name for name in SYSTEMS if "GLiNER" not in name or find_spec("gliner")]
    for name in SYSTEMS:
        if name not in names:
            print(f"{name} is left out: `pip install gliner` to measure it")
    arguments = [sys.executable, "-m", "benchmarks.nuner.inference", str(corpus)]
    arguments += ["--encoder", encoder, "--sentences", str(sentences), "--threads", str(threads)]
    measured = take_turns(names, arguments, rounds)
    n_words = sum(len(doc) for doc in spacy.blank("en").pipe(texts))
    base = min(measured[REFERENCE]["seconds"])
    rows = [
        {
            "system": name,
            "words_per_second": round(n_words / min(run["seconds"])),
            "ratio": round(base / min(run["seconds"]), 2),
            "memory_mib": run["memory_mib"],
            "seconds": [round(seconds, 2) for seconds in run["seconds"]],
        }
        for name, run in measured.items()
    ]
    results: dict[str, Any] = {
        "sentences": len(texts),
        "words": n_words,
        "threads": threads,
        "rows": rows,
        "f1": compare_precisions(pipeline, gold) if pipeline and gold else {},
        "provenance": provenance([corpus]),
    }
    HERE.with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf8")
    HERE.with_suffix(".md").write_text(table(results), encoding="utf8")
    plot(rows, HERE.with_suffix(".svg"))
    print(table(results))


def serve(system: str, encoder: Path, texts: list[str]) -> None:
    """Run a system once for each line of standard input, and answer with seconds and memory."""
    run = SYSTEMS[system](encoder)
    for _ in sys.stdin:
        run(texts[:256])  # while it waited its memory may have been reclaimed
        clock = time.perf_counter()
        run(texts)
        seconds = time.perf_counter() - clock
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(json.dumps({"seconds": seconds, "memory_mib": memory}), flush=True)


def take_turns(names: list[str], arguments: list[str], rounds: int) -> dict[str, dict[str, Any]]:
    """Let every system run once a round, one at a time."""
    processes = {
        name: subprocess.Popen(
            [*arguments, "--system", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in names
    }
    measured: dict[str, dict[str, Any]] = {name: {"seconds": []} for name in names}
    try:
        for _ in tqdm(range(rounds), unit="round"):
            for name, process in processes.items():
                assert process.stdin is not None and process.stdout is not None
                process.stdin.write("run\n")
                process.stdin.flush()
                answer = json.loads(process.stdout.readline())
                measured[name]["seconds"].append(answer["seconds"])
                measured[name]["memory_mib"] = answer["memory_mib"]
    finally:
        for process in processes.values():
            process.kill()
    return measured


def compare_precisions(pipeline: Path, gold: Path) -> dict[str, float]:
    """Strict F1 of one trained pipeline in each precision."""
    scores = {}
    half = ("bfloat16",) if computes_in_bfloat16(torch.device("cpu")) else ()
    for precision in ("float32", *half, "int8"):
        override = {"components.nuner.model.tok2vec.precision": precision}
        nlp = spacy.load(pipeline, config=override)
        docs = DocBin().from_disk(gold).get_docs(nlp.vocab)
        examples = [Example(nlp.make_doc(doc.text), doc) for doc in docs]
        scores[precision] = round(100 * nlp.evaluate(examples)["ents_f"], 2)
    return scores


def table(results: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        "    python -m benchmarks.nuner.inference corpus/nuner.jsonl \\",
        "        --pipeline training/nuner/nuner/full/model-best --gold corpus/gold_test.spacy",
        "",
        f"{results['sentences']:,} sentences, {results['words']:,} words, "
        f"{results['threads']} threads, {results['provenance']['machine']['processor']}.",
        "",
        f"| system | words/s | {' | '.join(f'to {name}' for name in BESIDE)} | memory (MiB) |",
        f"| --- | ---: |{' ---: |' * len(BESIDE)} ---: |",
    ]
    speeds = {row["system"]: row["words_per_second"] for row in results["rows"]}
    for row in results["rows"]:
        speed = row["words_per_second"]
        ratios = " | ".join(f"{speed / speeds[name]:.2f}" for name in BESIDE)
        lines.append(f"| {row['system']} | {speed:,} | {ratios} | {row['memory_mib']:,} |")
    if any(system.startswith("GLiNER") for system in speeds):
        lines += [
            "",
            "GLiNER has random weights in the same encoder, for its speed only; "
            "`pip install gliner` for its row.",
        ]
    if results["f1"]:
        scores = ", ".join(f"{name} {score:.1f}" for name, score in results["f1"].items())
        lines += ["", f"Strict F1 of one trained pipeline: {scores}."]
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """The speeds as bars."""
    figure, axes = plt.subplots(figsize=(7, 0.45 * len(rows) + 0.8))
    names = [row["system"] for row in rows]
    colours = ["tab:blue" if name.startswith("nuner") else "0.7" for name in names]
    bars = axes.barh(names, [row["words_per_second"] for row in rows], color=colours)
    axes.bar_label(bars, fmt="{:,.0f}", padding=3)
    axes.invert_yaxis()
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlabel("words per second")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    typer.run(main)
