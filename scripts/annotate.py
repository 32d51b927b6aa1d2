"""Annotate texts with a language model, by the prompt and the filters of NuNER or UniversalNER."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer
from spacy.cli._util import import_code, parse_config_overrides
from spacy.tokens import Doc
from tqdm import tqdm
from wasabi import msg

from spacy_universalner.data.annotation.costs import Price, read_price
from spacy_universalner.data.annotation.run import (
    annotate,
    load_annotator,
    plan,
    stored_model,
    write_annotations,
)
from spacy_universalner.data.annotation.stored import StoredModel
from spacy_universalner.data.annotation.tasks import Annotation
from spacy_universalner.data.annotation.texts import TextSettings, prepare_texts
from spacy_universalner.data.readers import check_paths
from spacy_universalner.ty import Passage

Annotated = tuple[Passage, Annotation, Doc | None]
EXTRA_ARGS = {"allow_extra_args": True, "ignore_unknown_options": True}
app = typer.Typer(add_completion=False)


@app.command(context_settings=EXTRA_ARGS)
def main(
    ctx: typer.Context,
    config: Path = typer.Argument(..., exists=True, help="Pipeline with the annotation task"),
    texts: Path = typer.Argument(..., exists=True, help="Texts: .jsonl, .csv, .parquet or .txt"),
    output: Path = typer.Argument(..., help="Start of the outputs' names, such as corpus/nuner"),
    llm: Path = typer.Option(Path("configs/llm/recorded.cfg"), exists=True, help="The model"),
    metrics: Path = typer.Option(None, help="JSON of counts, type frequencies, rejects"),
    store: Path = typer.Option(None, help="Responses; default: responses.sqlite beside OUTPUT"),
    limit: int = typer.Option(None, min=1, help="Take only the first so many texts"),
    sample: int = typer.Option(None, min=1, help="Draw so many texts at random"),
    dry_run: bool = typer.Option(False, "--dry-run", help="Print requests, tokens, price; stop"),
    prices: Path = typer.Option(Path("configs/prices.csv"), help="Table of prices"),
    response_tokens: int = typer.Option(100, help="Expected tokens of a response, for the price"),
    code: Path = typer.Option(None, exists=True, help="Python file with registered functions"),
    batch_size: int = typer.Option(64, min=1, help="Texts sent to the model at once"),
    docs: bool = typer.Option(True, "--docs/--no-docs", help="Whether to write OUTPUT.spacy"),
    max_failed: int = typer.Option(None, min=0, help="Fail if more requests have no answer"),
) -> None:
    """Write OUTPUT.jsonl, OUTPUT_rejects.jsonl and OUTPUT.spacy.

    Every response is stored as it arrives: a run that was stopped goes on where it was, and one
    with failures repeats only those. Values of the config can be changed as in `spacy train`, for
    example `--components.llm.model.model.name gpt-4o`.
    """
    import_code(code)
    try:
        names = (".jsonl", "_rejects.jsonl", ".spacy")
        check_paths([texts], (output.with_name(output.name + name) for name in names))
        nlp = load_annotator(
            config,
            llm,
            texts=texts,
            store=store or output.parent / "responses.sqlite",
            overrides=parse_config_overrides(ctx.args),
        )
    except (ImportError, OSError, ValueError) as error:  # no package, no key, no weights
        msg.fail(str(error), exits=1)
    settings = TextSettings(**nlp.config["texts"])
    settings = replace(settings, limit=limit or settings.limit, sample=sample or settings.sample)
    model = stored_model(nlp)
    name = str(nlp.config["components"]["llm"]["model"]["model"].get("name", ""))
    try:
        price = read_price(prices, name) if prices.exists() else None
        passages, _ = prepare_texts(texts, nlp.tokenizer, settings)
        ahead = plan(nlp, passages)
    except ValueError as error:  # a line that holds no text, or no price
        msg.fail(str(error), exits=1)
    answers = f"{ahead.texts - ahead.requests:,} answers stored, {ahead.requests:,} to ask for"
    tokens = (ahead.prompt_tokens, ahead.requests * response_tokens)
    cost = f": ${price.cost(*tokens):,.2f}" if price else ""
    msg.info(f"{ahead.texts:,} texts: {answers}")
    msg.info(f"About {tokens[0]:,} tokens of prompts and {tokens[1]:,} of responses{cost}")
    if name and not price:
        msg.warn(f"No price: add a line for '{name}' to {prices}")
    if dry_run:
        return

    passages, left_out = prepare_texts(texts, nlp.tokenizer, settings)
    annotated: Iterable[Annotated] = annotate(nlp, passages, batch_size=batch_size)
    if not docs:
        annotated = ((passage, annotation, None) for passage, annotation, _ in annotated)
    try:
        summary = write_annotations(
            output, show_progress(annotated, ahead.texts, model, price), left_out
        ).to_dict()
    except RuntimeError as error:  # too many failures in a row
        msg.fail(str(error), exits=1)
    if metrics is not None:
        metrics.parent.mkdir(parents=True, exist_ok=True)
        metrics.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", "utf8")
    report(summary)
    if model.failed:
        msg.warn(f"{model.failed:,} requests failed: run again to repeat them, and only them")
    if not summary["kept"]:
        msg.fail(f"Nothing was annotated; {output}_rejects.jsonl says why", exits=1)
    if max_failed is not None and model.failed > max_failed:
        msg.fail(f"More than --max-failed {max_failed} requests have no answer", exits=1)
    msg.good(f"{output}.jsonl")


def show_progress(
    annotated: Iterable[Annotated], total: int, model: StoredModel, price: Price | None
) -> Iterator[Annotated]:
    """A bar with rate, time left, failures and money."""
    with tqdm(total=total, unit="text") as bar:
        for item in annotated:
            yield item
            spent = price.cost(model.prompt_tokens, model.response_tokens) if price else 0.0
            notes = [f"{model.failed} failed"] * bool(model.failed) + [f"${spent:.2f}"] * bool(
                price
            )
            bar.set_postfix_str(", ".join(notes), refresh=False)
            bar.update()


def report(summary: dict[str, Any]) -> None:
    """Print the counts of a run."""
    msg.table(
        [(name, f"{summary[name]:,}") for name in ("texts", "kept", "entities", "types")]
        + [(f"left out: {reason}", f"{n:,}") for reason, n in summary["dropped_texts"].items()]
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


if __name__ == "__main__":
    app()
