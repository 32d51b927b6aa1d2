"""Fine-tune `nuner` on few-shot samples with a fixed schedule and no selection on held-out data.

The protocol of section 6 of the NuNER paper: the whole network is trained for 30 epochs, and what
stands at the end is the result. Every encoder gets the same settings, those of the config.
"""

from __future__ import annotations

import json
import shutil
import sys
from functools import partial
from io import StringIO
from math import ceil
from pathlib import Path
from typing import Annotated, Any

import typer
from spacy import util
from spacy.cli._util import parse_config_overrides
from spacy.language import Language
from spacy.tokens import DocBin
from spacy.training.initialize import init_nlp
from spacy.training.loop import train
from wasabi import msg

from scripts.side_by_side import side_by_side
from spacy_universalner.evaluation.provenance import provenance

MADE_FROM = "made_from.json"


def main(
    context: typer.Context,
    config_path: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    output: Annotated[Path, typer.Argument(file_okay=False, help="Folder of all encoders' runs")],
    encoder: Annotated[list[str], typer.Option(help="NAME=ENCODER, once for each encoder")],
    samples: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Folder of gold_kK_seedS.spacy")
    ] = Path("corpus"),
    k: Annotated[int, typer.Option(min=1, help="Examples of each type in a sample")] = 8,
    seeds: Annotated[int, typer.Option(min=1, help="Number of samples")] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over a sample")] = 30,
    batch_size: Annotated[int, typer.Option(min=1, help="Sentences of a batch")] = 8,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes at once; default: one a core, 1 on a GPU")
    ] = None,
    gpu_id: Annotated[int, typer.Option(help="GPU, or -1 for none")] = -1,
) -> None:
    """Train every encoder on every sample: OUTPUT/{name}/few-shot/k{k}_seed{i}/model-last.

    Beside it made_from.json tells the settings, with the checksums of the sample and the encoder.
    Runs of the same k that are there already are removed: they may be of other samples or
    encoders. Settings can be overridden as in `spacy train`: --components.nuner.model.head mlp.
    """
    encoders = [parse_encoder(pair) for pair in encoder]
    for path in (sample_path(samples, k, seed) for seed in range(seeds)):
        if not path.is_file():
            msg.fail(
                f"There is no sample {path}",
                f"Draw it: python -m scripts.sample_few_shot corpus/gold_train.spacy {samples} "
                f"--k {k} --seeds {seeds}",
                exits=1,
            )
    for name, _ in encoders:
        for earlier in (output / name / "few-shot").glob(f"k{k}_seed*"):
            shutil.rmtree(earlier)
    runs = [(*each, seed) for each in encoders for seed in range(seeds)]
    train = partial(
        train_and_save,
        config_path=config_path,
        output=output,
        samples=samples,
        k=k,
        epochs=epochs,
        batch_size=batch_size,
        gpu_id=gpu_id,
        overrides=parse_config_overrides(context.args),
    )
    for _ in side_by_side(train, runs, jobs=jobs, gpu_id=gpu_id, desc="Few-shot runs"):
        pass
    msg.good(f"Trained {len(runs)} pipelines", output)


def train_and_save(
    run: tuple[str, str, int],
    *,
    config_path: Path,
    output: Path,
    samples: Path,
    k: int,
    epochs: int,
    batch_size: int,
    gpu_id: int,
    overrides: dict[str, Any],
) -> None:
    """Train an encoder, of a name and a path, on the sample of a seed."""
    name, path, seed = run
    sample = sample_path(samples, k, seed)
    made_from = {
        **{"encoder": path, "epochs": epochs, "batch_size": batch_size, "overrides": overrides},
        **provenance([config_path, sample], [path]),
    }
    nlp = fine_tune(
        config_path,
        path,
        sample,
        seed=seed,
        epochs=epochs,
        batch_size=batch_size,
        gpu_id=gpu_id,
        overrides=overrides,
    )
    folder = output / name / "few-shot" / f"k{k}_seed{seed}" / "model-last"
    folder.mkdir(parents=True, exist_ok=True)
    nlp.to_disk(folder)
    (folder.parent / MADE_FROM).write_text(json.dumps(made_from, indent=1) + "\n", "utf8")


def sample_path(samples: Path, k: int, seed: int) -> Path:
    """Where `sample_few_shot` writes a sample of the gold task."""
    return samples / f"gold_k{k}_seed{seed}.spacy"


def fine_tune(
    config_path: Path,
    encoder: str,
    train_path: Path,
    *,
    seed: int,
    epochs: int,
    batch_size: int,
    gpu_id: int = -1,
    overrides: dict[str, Any] | None = None,
    progress: bool = False,
) -> Language:
    """Train a pipeline with a schedule that is fixed beforehand; what stands at the end is kept.

    config_path (Path): Training config with `paths.encoder`.
    encoder (str): "embedded", a folder or a hub id.
    train_path (Path): Training data (.spacy).
    seed (int): Of the head's weights, the order and the dropout.
    epochs (int): Passes over the data.
    batch_size (int): Sentences of a batch.
    gpu_id (int): GPU, or -1 for none.
    overrides (dict[str, Any] | None): Further settings by dotted name.
    progress (bool): Show a progress bar.
    RETURNS (Language): The trained pipeline.
    """
    steps = epochs * ceil(len(DocBin().from_disk(train_path)) / batch_size)
    settings = {
        "paths.encoder": encoder,
        "paths.train": str(train_path),
        "paths.dev": str(train_path),
        "system.seed": seed,
        "training.max_epochs": epochs,
        "training.patience": 0,
        "training.eval_frequency": steps + 1,
        "training.batcher.size": batch_size,
        "training.logger.progress_bar": progress,
        "training.optimizer.learn_rate.warmup_steps": steps // 10,
        "training.optimizer.learn_rate.total_steps": steps,
        **(overrides or {}),
    }
    config = util.load_config(config_path, overrides=settings, interpolate=False)
    nlp = init_nlp(config, use_gpu=gpu_id)
    # Without a folder to write to there are no checkpoints to choose from.
    stderr = sys.stderr if progress else StringIO()
    train(nlp, use_gpu=gpu_id, stdout=StringIO(), stderr=stderr)
    return nlp


def parse_encoder(pair: str) -> tuple[str, str]:
    """Split NAME=ENCODER."""
    name, _, path = pair.partition("=")
    if not (name and path):
        raise typer.BadParameter(f"{pair!r}, expected NAME=ENCODER", param_hint="--encoder")
    return name, path


app = typer.Typer()
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(main)

if __name__ == "__main__":
    app()
