"""Annotate texts with a language model, by the prompt and the filters of NuNER or UniversalNER."""

import json
from pathlib import Path
from typing import Any

import typer
from spacy.cli._util import parse_config_overrides
from tqdm import tqdm
from wasabi import msg

from spacy_universalner.data.annotation.run import (
    annotate,
    load_annotator,
    stored_model,
    write_annotations,
)
from spacy_universalner.data.annotation.stored import StoredModel
from spacy_universalner.data.readers import read_passages

EXTRA_ARGS = {"allow_extra_args": True, "ignore_unknown_options": True}
app = typer.Typer(context_settings=EXTRA_ARGS, add_completion=False)


@app.command(context_settings=EXTRA_ARGS)
def main(
    ctx: typer.Context,
    config: Path = typer.Argument(..., exists=True, help="Pipeline with the annotation task"),
    texts: Path = typer.Argument(..., exists=True, help="JSONL with id and text"),
    output: Path = typer.Argument(..., help="Start of the outputs' names, such as corpus/nuner"),
    llm: Path = typer.Option(Path("configs/llm/recorded.cfg"), exists=True, help="The model"),
    metrics: Path = typer.Option(None, help="JSON of counts, type frequencies, rejects"),
    store: Path = typer.Option(None, help="Responses; default: responses.sqlite beside OUTPUT"),
    batch_size: int = typer.Option(64, min=1, help="Texts sent to the model at once"),
) -> None:
    """Write OUTPUT.jsonl, OUTPUT.spacy and OUTPUT_rejects.jsonl.

    Values of the config can be changed as in `spacy train`, for example
    `--components.llm.model.model.name gpt-4o`.
    """
    try:
        nlp = load_annotator(
            config,
            llm,
            texts=texts,
            store=store or output.parent / "responses.sqlite",
            overrides=parse_config_overrides(ctx.args),
        )
    except OSError as error:
        msg.fail(str(error), exits=1)
    passages = list(read_passages(texts))
    annotated = annotate(nlp, passages, batch_size=batch_size)
    progress = tqdm(annotated, total=len(passages), unit="text", desc=output.name)
    summary = write_annotations(output, progress).to_dict()
    if metrics is not None:
        metrics.parent.mkdir(parents=True, exist_ok=True)
        metrics.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", "utf8")
    report(summary, stored_model(nlp))
    msg.good(f"{output}.jsonl, {output}.spacy, {output}_rejects.jsonl")


def report(summary: dict[str, Any], model: StoredModel) -> None:
    """Print the counts of a run."""
    msg.info(f"{model.asked} requests, {model.reused} answers from {model.store.path}")
    msg.table(
        [(name, f"{summary[name]:,}") for name in ("texts", "kept", "entities", "types")]
        + [(f"dropped: {reason}", f"{n:,}") for reason, n in summary["dropped_texts"].items()]
        + [(f"rejected: {reason}", f"{n:,}") for reason, n in summary["rejects"].items()],
        aligns=("l", "r"),
    )
    msg.table(
        [
            (band["band"], f"{band['types']:,}", f"{band['mentions']:,}", f"{band['share']:.1%}")
            for band in summary["frequency_bands"]
        ],
        header=("types by frequency", "types", "entities", "share"),
        aligns=("l", "r", "r", "r"),
    )
    if model.failed:
        msg.warn(f"{model.failed} requests failed; run again to repeat only those")


if __name__ == "__main__":
    app()
