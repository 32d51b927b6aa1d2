"""How fast a student is tuned, against a plain PyTorch loop over the same batches.

    export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1099511627776
    python -m benchmarks.universal_ner.finetuning corpus/conversations_train.jsonl training/student

The variables keep memory between steps, as `scripts.stage` does in the workflow; without them both
are several times slower. The loop has what a loop needs and no more: forward, the model's own loss
over all positions, backward, clipping, AdamW. All turns start from the same weights and see the
same rows in the same order.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import torch
import typer
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, get_scheduler
from transformers.utils import logging

from spacy_universalner.data.readers import read_conversations
from spacy_universalner.evaluation.provenance import provenance
from spacy_universalner.precision import choose_precision
from spacy_universalner.ty import Conversation
from spacy_universalner.universal_ner.finetune import METRICS_FILE, encode_all, finetune
from spacy_universalner.universal_ner.finetune_batches import Collator, LengthGroupedSampler
from spacy_universalner.universal_ner.finetune_settings import FinetuneSettings, read_settings

HERE = Path(__file__)


def main(
    data: Path = typer.Argument(..., exists=True, dir_okay=False, help="Conversations (JSONL)"),
    student: str = typer.Argument(..., help="Folder or hub id of a causal language model"),
    config: Path = typer.Option(Path("configs/finetune_mini.cfg"), help="Settings (.cfg)"),
    texts: int = typer.Option(150, help="Conversations of a turn"),
    rounds: int = typer.Option(2, help="Turns of each"),
    threads: int = typer.Option(2, help="CPU threads"),
) -> None:
    """Measure tokens per second, without padding; write the figures beside this file."""
    torch.set_num_threads(threads)
    logging.set_verbosity_error()
    overrides = {"training.num_train_epochs": 1, "training.disable_tqdm": True}
    settings = read_settings(config, overrides)
    conversations = list(islice(read_conversations(data), texts))
    systems = {"plain loop": run_plain, "finetune": run_ours}
    runs: dict[str, list[tuple[int, float]]] = {name: [] for name in systems}
    for _ in range(rounds):
        for name, run in systems.items():
            runs[name].append(run(settings, student, conversations))
    speed = {name: max(tokens / seconds for tokens, seconds in runs[name]) for name in systems}
    results = {
        "texts": texts,
        "threads": threads,
        "tokens": runs["finetune"][0][0],
        "rows": [
            {
                "system": name,
                "tokens_per_second": round(value),
                "ratio": round(value / speed["plain loop"], 2),
                "seconds": [round(seconds, 1) for _, seconds in runs[name]],
            }
            for name, value in speed.items()
        ],
        "provenance": provenance([data]),
    }
    HERE.with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf8")
    lines = [
        "    export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1099511627776",
        f"    python -m benchmarks.universal_ner.finetuning {data} {student}",
        "",
        f"{results['tokens']:,} tokens, batches of "
        f"{settings.training['per_device_train_batch_size']}, {threads} threads, "
        f"{results['provenance']['machine']['processor']}.",
        "",
        "| system | tokens/s | ratio |",
        "| --- | ---: | ---: |",
        *(
            f"| {row['system']} | {row['tokens_per_second']:,} | {row['ratio']:.2f} |"
            for row in results["rows"]
        ),
    ]
    HERE.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf8")
    print("\n".join(lines))


def run_ours(
    settings: FinetuneSettings, student: str, conversations: list[Conversation]
) -> tuple[int, float]:
    """Tokens and seconds of `finetune`."""
    with tempfile.TemporaryDirectory() as folder:
        finetune(settings, student, conversations, Path(folder))
        metrics = json.loads((Path(folder) / METRICS_FILE).read_text(encoding="utf8"))
    return metrics["tokens"], metrics["seconds"]


def run_plain(
    settings: FinetuneSettings, student: str, conversations: list[Conversation]
) -> tuple[int, float]:
    """Tokens and seconds of a loop over the batches that `finetune` makes."""
    training = settings.training
    tokenizer = AutoTokenizer.from_pretrained(student)
    model = AutoModelForCausalLM.from_pretrained(student).train()
    positions = model.config.max_position_embeddings
    rows, _ = encode_all(tokenizer, conversations, settings.data, positions)
    lengths = [len(row["input_ids"]) for row in rows]
    size = training["per_device_train_batch_size"]
    order = list(LengthGroupedSampler(lengths, size, training["seed"]))
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    collate = Collator(tokenizer.pad_token_id or 0, model.config, settings.data.attend)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=training["learning_rate"], weight_decay=0.0, fused=True
    )
    schedule = get_scheduler(
        training["lr_scheduler_type"],
        optimizer,
        num_warmup_steps=round(training["warmup_ratio"] * len(batches)),
        num_training_steps=len(batches),
    )
    half = choose_precision("auto", model.device) == "bfloat16"
    clock = time.perf_counter()
    for batch in batches:
        inputs = collate([rows[number] for number in batch])
        inputs.pop("lengths")
        with autocast(half):
            loss: Tensor = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return sum(lengths), time.perf_counter() - clock


@contextmanager
def autocast(bf16: bool) -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        yield


if __name__ == "__main__":
    typer.run(main)
