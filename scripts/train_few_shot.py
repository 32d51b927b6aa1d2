"""Fine-tune `nuner` on few-shot samples with a fixed schedule and no selection on held-out data.

The protocol of section 6 of the NuNER paper: the whole network is trained for 30 epochs, and what
stands at the end is the result. Every encoder gets the same settings, those of the config.
"""

from __future__ import annotations

from math import ceil
from pathlib import Path
from typing import Annotated

import typer
from spacy import util
from spacy.cli._util import setup_gpu
from spacy.tokens import DocBin
from spacy.training.initialize import init_nlp
from spacy.training.loop import train
from tqdm import tqdm
from wasabi import msg


def main(
    config_path: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    output: Annotated[Path, typer.Argument(file_okay=False)],
    encoder: Annotated[list[str], typer.Option(help="NAME=ENCODER, once for each encoder")],
    samples: Annotated[Path, typer.Option(exists=True, file_okay=False)] = Path("corpus"),
    k: Annotated[int, typer.Option(min=1)] = 8,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    epochs: Annotated[int, typer.Option(min=1)] = 30,
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    gpu_id: int = -1,
) -> None:
    """Train on SAMPLES/gold_k{k}_seed{i}.spacy into OUTPUT/{name}/k{k}_seed{i}/model-last."""
    setup_gpu(gpu_id, silent=True)
    runs = [(pair.partition("="), seed) for pair in encoder for seed in range(seeds)]
    for (name, _, path), seed in tqdm(runs, desc="Few-shot runs", unit="run"):
        if not path:
            raise typer.BadParameter(f"--encoder {name}: expected NAME=ENCODER.")
        run = f"k{k}_seed{seed}"
        sample = samples / f"gold_{run}.spacy"
        steps = epochs * ceil(len(DocBin().from_disk(sample)) / batch_size)
        overrides = {
            "paths.encoder": path,
            "paths.train": str(sample),
            "paths.dev": str(sample),
            "system.seed": seed,
            "training.max_epochs": epochs,
            "training.max_steps": 0,
            "training.patience": 0,
            "training.eval_frequency": steps + 1,
            "training.batcher.size": batch_size,
            "training.optimizer.learn_rate.warmup_steps": steps // 10,
            "training.optimizer.learn_rate.total_steps": steps,
        }
        config = util.load_config(config_path, overrides=overrides, interpolate=False)
        nlp = init_nlp(config, use_gpu=gpu_id)
        with msg.no_print():
            train(nlp, output / name / run, use_gpu=gpu_id)
    msg.good(f"Trained {len(runs)} pipelines", output)


if __name__ == "__main__":
    typer.run(main)
