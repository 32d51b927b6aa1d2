"""Train an encoder as an ordinary token classifier of the corpus' commonest concepts.

What NuNER is compared with (section 4.1): the same text and base encoder, but a closed set of types
and one class a token, as NER-BERT is trained. The head is thrown away; the encoder stays.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import spacy
import typer
from spacy.cli._util import parse_config_overrides, setup_gpu
from spacy.language import Language
from wasabi import msg

from scripts.pretrain_nuner import read_sentences
from scripts.train_few_shot import fine_tune
from spacy_universalner.data.readers import passages_to_docbin, read_passages
from spacy_universalner.evaluation.provenance import provenance
from spacy_universalner.nuner.backbone import load_encoder, transformer_layers
from spacy_universalner.ty import Passage

METRICS_FILE = "pretraining.json"


def main(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Training config")],
    corpus: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Passages (JSONL)")],
    output: Annotated[Path, typer.Argument(file_okay=False, help="Folder of the encoder")],
    encoder: Annotated[
        str, typer.Option(help='What to start from: "embedded", a folder, a hub id')
    ] = "embedded",
    also: Annotated[
        list[Path],
        typer.Option(
            exists=True, dir_okay=False, help="Longer passages: their sentences are texts as well"
        ),
    ] = [],  # noqa: B006
    concepts: Annotated[int, typer.Option(min=2, help="How many of the commonest are types")] = 300,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the corpus")] = 5,
    batch_size: Annotated[int, typer.Option(min=1, help="Passages of a batch")] = 24,
    frozen: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the layers that stay, from the bottom")
    ] = 0.5,
    precision: Annotated[str, typer.Option(help="float32, bfloat16 or auto")] = "float32",
    seed: Annotated[int, typer.Option(help="Of the head's weights, the order and dropout")] = 0,
    gpu_id: Annotated[int, typer.Option(help="GPU, or -1 for none")] = -1,
) -> None:
    """Write the encoder and its tokenizer to OUTPUT, where `AutoModel` finds them.

    Settings of CONFIG can be overridden as in `spacy train`:
    --training.optimizer.learn_rate.initial_rate 3e-5.
    """
    overrides = parse_config_overrides(context.args)
    setup_gpu(gpu_id, silent=True)
    passages = [*read_passages(corpus), *(text for path in also for text in read_sentences(path))]
    counts = Counter(mention.label for passage in passages for mention in passage.mentions)
    types = dict(counts.most_common(concepts))
    layers = int(frozen * len(transformer_layers(load_encoder(encoder)[0])))
    clock = time.perf_counter()
    with TemporaryDirectory() as folder:
        data = Path(folder) / "closed.spacy"
        docbin, lost = passages_to_docbin(spacy.blank("en"), keep_types(passages, types))
        docbin.to_disk(data)
        nlp = fine_tune(
            config,
            encoder,
            data,
            seed=seed,
            epochs=epochs,
            batch_size=batch_size,
            gpu_id=gpu_id,
            overrides={
                # A token classifier's usual classes, whatever CONFIG has for few examples
                "components.nuner.model.scheme": "bio",
                "components.nuner.model.tok2vec.freeze": layers or "none",
                "components.nuner.model.tok2vec.precision": precision,
                **overrides,
            },
            progress=True,
        )
    export_encoder(nlp, output)
    metrics = {
        "encoder": encoder,
        "passages": len(passages),
        "types": len(types),
        "share_of_mentions": (sum(types.values()) - len(lost)) / counts.total(),
        "mentions_lost": len(lost),  # they overlap another, which one class a token cannot tell
        "epochs": epochs,
        "batch_size": batch_size,
        "frozen": frozen,
        "precision": precision,
        "overrides": overrides,
        "seed": seed,
        "seconds": round(time.perf_counter() - clock, 1),
        "provenance": provenance([config, corpus, *also]),
    }
    (output / METRICS_FILE).write_text(json.dumps(metrics, indent=2) + "\n", "utf8")
    share = f"{metrics['share_of_mentions']:.0%} of the mentions"
    if lost:
        msg.warn(f"{len(lost):,} mentions overlap another and are left out")
    msg.good(f"{output}: trained on {len(types)} types, {share}")


def keep_types(passages: Iterable[Passage], types: Collection[str]) -> Iterator[Passage]:
    """Passages with the mentions of some types only: all else is outside of entities."""
    for passage in passages:
        kept = tuple(mention for mention in passage.mentions if mention.label in types)
        yield replace(passage, mentions=kept)


def export_encoder(nlp: Language, output: Path) -> None:
    """Write the encoder of a pipeline with `nuner` as a Hugging Face folder."""
    shim = nlp.get_pipe("nuner").model.get_ref("tok2vec").shims[0]
    output.mkdir(parents=True, exist_ok=True)
    shim.encoder.save_pretrained(output)
    shim.tokenizer.save_pretrained(output)


app = typer.Typer()
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(main)

if __name__ == "__main__":
    app()
