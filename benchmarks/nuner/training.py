"""How fast `nuner` is trained, against spaCy's own `transformer` and `ner` on the same encoder.

    python -m benchmarks.nuner.training corpus/gold_train.spacy

Both are fully fine-tuned by `nlp.update` as `spacy train` calls it, on the same batches.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
import typer
from spacy.language import Language
from spacy.tokens import DocBin
from spacy.training import Example
from spacy.util import fix_random_seed, minibatch
from thinc.api import Adam
from tqdm import tqdm
from transformers.utils import logging

from benchmarks.nuner.systems import make_nuner, make_transformer_ner
from spacy_universalner.evaluation.provenance import provenance
from spacy_universalner.precision import computes_in_bfloat16
from spacy_universalner.pretrained import resolve

HERE = Path(__file__)


def main(
    data: Path = typer.Argument(..., exists=True, dir_okay=False, help="Training data (.spacy)"),
    encoder: str = typer.Option("embedded", help="Encoder of all systems"),
    batch_size: int = typer.Option(16, help="Documents of a batch"),
    rounds: int = typer.Option(2, help="Turns of each system"),
    threads: int = typer.Option(2, help="CPU threads"),
) -> None:
    """Measure words per second of an epoch; write the figures beside this file."""
    torch.set_num_threads(threads)
    logging.set_verbosity_error()
    folder = Path(resolve(encoder))
    systems = {
        "spaCy transformer + ner": make_transformer_ner(folder),
        "nuner float32": make_nuner(folder),
    }
    if computes_in_bfloat16(torch.device("cpu")):  # else it would be emulated
        systems["nuner bfloat16"] = make_nuner(folder, "bfloat16")
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    optimizers = {}
    for name, nlp in systems.items():
        fix_random_seed(0)
        optimizers[name] = Adam(5e-5, L2=0.01, use_averages=False)
        nlp.initialize(lambda nlp=nlp: read(nlp, data), sgd=optimizers[name])
    for _ in tqdm(range(rounds), unit="round"):
        for name, nlp in systems.items():
            seconds[name].append(train_epoch(nlp, data, batch_size, optimizers[name]))
    n_words = sum(len(example) for example in read(nlp, data))
    base = min(seconds["spaCy transformer + ner"])
    rows = [
        {
            "system": name,
            "words_per_second": round(n_words / min(times)),
            "ratio": round(base / min(times), 2),
            "seconds": [round(value, 2) for value in times],
        }
        for name, times in seconds.items()
    ]
    results = {"words": n_words, "threads": threads, "batch_size": batch_size, "rows": rows}
    results["provenance"] = provenance([data])
    HERE.with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf8")
    lines = [
        "    python -m benchmarks.nuner.training corpus/gold_train.spacy",
        "",
        f"{n_words:,} words an epoch, batches of {batch_size}, {threads} threads, "
        f"{results['provenance']['machine']['processor']}.",
        "",
        "| system | words/s | ratio |",
        "| --- | ---: | ---: |",
        *(f"| {r['system']} | {r['words_per_second']:,} | {r['ratio']:.2f} |" for r in rows),
    ]
    HERE.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf8")
    print("\n".join(lines))


def read(nlp: Language, data: Path) -> list[Example]:
    docs = DocBin().from_disk(data).get_docs(nlp.vocab)
    return [Example(nlp.make_doc(doc.text), doc) for doc in docs]


def train_epoch(nlp: Language, data: Path, batch_size: int, optimizer: Adam) -> float:
    examples = read(nlp, data)
    clock = time.perf_counter()
    for batch in minibatch(examples, batch_size):
        nlp.update(batch, sgd=optimizer)
    return time.perf_counter() - clock


if __name__ == "__main__":
    typer.run(main)
