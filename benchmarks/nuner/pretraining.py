"""Contrastive pre-training: this package against a plain loop, same encoder, data and settings.

    python -m benchmarks.nuner.pretraining corpus/nuner.jsonl

The plain loop is what one writes first: float32, batches in corpus order padded to the longest,
every concept encoded as often as it occurs, frozen layers computed anew in every epoch, a dense
target array. Both start from the same weights and minimise the same loss.
"""

import json
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from random import Random

import torch
import typer
from torch.nn import functional as F
from tqdm import tqdm
from transformers import get_linear_schedule_with_warmup

from spacy_universalner.data.readers import read_passages
from spacy_universalner.evaluation.provenance import machine
from spacy_universalner.nuner.backbone import freeze_bottom, load_encoder
from spacy_universalner.nuner.batches import plan_batches, tokenize_passage
from spacy_universalner.nuner.pretrain import pretrain, split_passages
from spacy_universalner.nuner.pretrain_settings import PretrainSettings, read_settings
from spacy_universalner.precision import computes_in_bfloat16
from spacy_universalner.ty import Passage

RESULTS = Path(__file__).with_suffix(".json")


def plain_loop(
    passages: list[Passage], settings: PretrainSettings, *, shuffle: bool = False
) -> dict:
    """The loop that one writes first; validated on the same batches as ours.

    shuffle (bool): Draw the order of the texts anew in every epoch, in place of the corpus' own.
    """
    torch.manual_seed(settings.seed)
    text_encoder, tokenizer = load_encoder(settings.encoder)
    concept_encoder, _ = load_encoder(settings.encoder)
    freeze_bottom(text_encoder, settings.frozen)
    freeze_bottom(concept_encoder, settings.concept_frozen)
    train, dev = split_passages(passages, settings.dev_fraction, settings.seed)

    def loss_of(batch: list[Passage]) -> torch.Tensor:
        rows = [tokenize_passage(passage, tokenizer, settings.max_length) for passage in batch]
        texts = tokenizer.pad({"input_ids": [row.ids for row in rows]}, return_tensors="pt")
        occurrences = [mention.label for passage in batch for mention in passage.mentions]
        concepts = sorted(set(occurrences))
        names = tokenizer(occurrences, padding=True, return_tensors="pt")
        states = concept_encoder(**names).last_hidden_state
        mask = names["attention_mask"].unsqueeze(-1)
        vectors = (states * mask).sum(1) / mask.sum(1)
        vectors = vectors[[occurrences.index(concept) for concept in concepts]]
        tokens = text_encoder(**texts).last_hidden_state
        logits = tokens @ vectors.T / settings.temperature + settings.bias
        targets = torch.zeros_like(logits)
        for number, row in enumerate(rows):
            for concept, places in row.concepts.items():
                targets[number, places, concepts.index(concept)] = 1
        real = texts["attention_mask"].bool()
        return F.binary_cross_entropy_with_logits(logits[real], targets[real])

    def batches(corpus: list[Passage]) -> list[list[Passage]]:
        starts = range(0, len(corpus), settings.batch_size)
        return [corpus[start : start + settings.batch_size] for start in starts]

    free = [
        parameter
        for encoder in (text_encoder, concept_encoder)
        for parameter in encoder.parameters()
        if parameter.requires_grad
    ]
    optimizer = torch.optim.AdamW(
        free,
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
    )
    steps = settings.epochs * len(batches(train))
    scheduler = get_linear_schedule_with_warmup(optimizer, round(settings.warmup * steps), steps)
    history, seconds = [], 0.0
    lengths = [len(tokenize_passage(each, tokenizer, settings.max_length).ids) for each in dev]
    planned = plan_batches(lengths, settings.batch_size, Random(settings.seed))
    for epoch in tqdm(range(settings.epochs), desc="Plain loop", unit="epoch"):
        clock = time.perf_counter()
        losses = []
        order = Random(f"{settings.seed} {epoch}")
        for batch in batches(order.sample(train, len(train)) if shuffle else train):
            loss = loss_of(batch)
            loss.backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            losses.append(float(loss))
        seconds += time.perf_counter() - clock
        with torch.no_grad():
            dev_losses = [
                float(loss_of([dev[i] for i in indices])) * sum(lengths[i] for i in indices)
                for indices in planned
            ]
        history.append(
            {
                "epoch": epoch + 1,
                "loss": sum(losses) / len(losses),
                "dev_loss": sum(dev_losses) / sum(lengths),
            }
        )
    words = sum(len(passage.text.split()) for passage in train)
    return {"epochs": history, "words_per_second": words * settings.epochs / seconds}


def main(
    corpus: Path = typer.Argument(..., exists=True, dir_okay=False),
    config: Path = typer.Option(Path("configs/pretrain_mini.cfg"), exists=True),
    sentences: int = typer.Option(1000, help="As many of the corpus' first"),
    epochs: int = typer.Option(3),
    batch_size: int = typer.Option(48, help="Sentences a batch, the paper's; not what CONFIG says"),
    threads: int = typer.Option(2),
    output: Path = typer.Option(RESULTS, help="The figures; a table goes beside them"),
) -> None:
    """Write OUTPUT and its table."""
    torch.set_num_threads(threads)
    # No time limit, as the plain loop heeds none.
    settings = replace(read_settings(config), epochs=epochs, minutes=0.0, batch_size=batch_size)
    passages = list(read_passages(corpus))[:sentences]
    runs = {"plain loop": plain_loop(passages, settings)}
    ways = {
        "float32": {"precision": "float32"},
        "float32, frozen layers not stored": {"precision": "float32", "cache_frozen": False},
    }
    if computes_in_bfloat16(torch.device("cpu")):  # else it would be emulated
        ways["bfloat16"] = {"precision": "bfloat16"}
    with tempfile.TemporaryDirectory() as folder:
        for name, changes in ways.items():
            runs[name] = pretrain(passages, Path(folder) / name, replace(settings, **changes))
    base = runs["plain loop"]["words_per_second"]
    rows = [
        (name, run["words_per_second"], run["words_per_second"] / base, run["epochs"])
        for name, run in runs.items()
    ]
    results = {
        "settings": asdict(settings),
        "sentences": len(passages),
        "threads": threads,
        "machine": machine(),
        "runs": [
            {"name": name, "words_per_second": round(speed), "ratio": round(ratio, 2), "epochs": e}
            for name, speed, ratio, e in rows
        ],
    }
    output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf8")
    lines = [
        f"    python -m benchmarks.nuner.pretraining {corpus} --sentences {sentences} "
        f"--epochs {epochs} --batch-size {batch_size}"
        + ("" if output == RESULTS else f" \\\n        --output {output}"),
        "",
        f"{len(passages):,} sentences, {epochs} epochs, {threads} threads, "
        f"{results['machine']['processor']}; losses x 1,000.",
        "",
        "| | words/s | ratio | loss by epoch | validation loss by epoch |",
        "| --- | ---: | ---: | --- | --- |",
    ]
    for name, speed, ratio, history in rows:
        losses = [
            ", ".join(f"{1000 * record[kind]:.2f}" for record in history)
            for kind in ("loss", "dev_loss")
        ]
        lines.append(f"| {name} | {speed:,.0f} | {ratio:.2f} | {losses[0]} | {losses[1]} |")
    output.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf8")
    print("\n".join(lines))


if __name__ == "__main__":
    typer.run(main)
