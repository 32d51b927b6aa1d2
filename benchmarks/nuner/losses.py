"""Contrastive pre-training: the losses of this package against those of a plain loop.

    python -m benchmarks.nuner.losses corpus/nuner.jsonl

Both draw their batches at random, as the negatives of a text are the concepts of its batch. Each
seed holds out other texts; on those of one seed both are scored in the same batches.
"""

import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
import typer

from benchmarks.nuner.pretraining import plain_loop
from spacy_universalner.data.readers import read_passages
from spacy_universalner.evaluation.provenance import provenance
from spacy_universalner.nuner.pretrain import pretrain
from spacy_universalner.nuner.pretrain_settings import read_settings

HERE = Path(__file__)
KINDS = {"loss": "training", "dev_loss": "validation"}


def main(
    corpus: Path = typer.Argument(..., exists=True, dir_okay=False),
    config: Path = typer.Option(Path("configs/pretrain_mini.cfg"), exists=True),
    sentences: int = typer.Option(1000, help="As many of the corpus' first"),
    epochs: int = typer.Option(3),
    seeds: int = typer.Option(3),
    threads: int = typer.Option(2),
) -> None:
    """Write the losses beside this file."""
    torch.set_num_threads(threads)
    settings = replace(read_settings(config), epochs=epochs, minutes=0.0, precision="float32")
    passages = list(read_passages(corpus))[:sentences]
    histories: dict[str, list] = {"plain loop, shuffled": [], "pretrain": []}
    for seed in range(seeds):
        seeded = replace(settings, seed=seed)
        plain = plain_loop(passages, seeded, shuffle=True)
        with tempfile.TemporaryDirectory() as folder:
            ours = pretrain(passages, Path(folder), seeded)
        for runs, run in zip(histories.values(), (plain, ours), strict=True):
            runs.append(run["epochs"])
    results = {
        **{"sentences": len(passages), "epochs": epochs, "seeds": seeds, "threads": threads},
        **{"runs": histories, "provenance": provenance([config, corpus])},
    }
    HERE.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf8")
    columns = [(kind, epoch) for kind in KINDS for epoch in range(epochs)]
    names = [f"{KINDS[kind]}, epoch {epoch + 1}" for kind, epoch in columns]
    lines = [
        f"    python -m benchmarks.nuner.losses {corpus} --sentences {sentences}",
        "",
        f"{len(passages):,} sentences, mean ± standard deviation of {seeds} seeds; losses x 1,000.",
        "",
        f"| | {' | '.join(names)} |",
        f"| --- |{' ---: |' * len(names)}",
    ]
    for name, runs in histories.items():
        cells = (show([1000 * run[epoch][kind] for run in runs]) for kind, epoch in columns)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    HERE.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf8")
    print("\n".join(lines))


def show(values: list[float]) -> str:
    """Mean and standard deviation."""
    sd = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} ± {sd:.2f}"


if __name__ == "__main__":
    typer.run(main)
