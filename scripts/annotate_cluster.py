"""Annotate texts with a language model on a Ray cluster; see scripts/annotate.py."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import typer
from spacy.cli._util import import_code, parse_config_overrides
from tqdm import tqdm
from wasabi import msg

from scripts.annotate import EXTRA_ARGS, report
from spacy_universalner.data.annotation.run import load_annotator, write_annotations
from spacy_universalner.data.annotation.tasks import NO_ANSWER
from spacy_universalner.data.annotation.texts import TextSettings, prepare_texts
from spacy_universalner.data.readers import check_paths

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
    code: Path = typer.Option(None, exists=True, help="Python file with registered functions"),
    batch_size: int = typer.Option(64, min=1, help="Texts sent to the model at once"),
    workers: int = typer.Option(2, min=1, help="Processes that ask"),
    address: str = typer.Option(
        None, help="The cluster: 'auto' for the one this machine is part of; default: a new one"
    ),
    num_cpus: int = typer.Option(None, min=1, help="CPUs of a new cluster; default: all"),
    object_store_mb: int = typer.Option(256, min=80, help="Shared memory of a new cluster"),
) -> None:
    """Write OUTPUT.parquet, a folder, and OUTPUT.jsonl and OUTPUT_rejects.jsonl: the same to the
    byte as scripts/annotate.py writes.

    Every machine must see the config, the model's config and OUTPUT under the same path.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anyone
    # A new cluster would start 32 processes to look at the files' footers.
    os.environ.setdefault("RAY_DATA_PARQUET_FOOTER_NUM_ACTORS", "1")
    try:
        import ray

        from spacy_universalner.data.annotation import cluster
    except ImportError:
        msg.fail("A cluster needs Ray: pip install 'spacy-universalner[ray]'", exits=1)
    import_code(code)
    prepared = output.with_name(f"{output.name}_texts.parquet").absolute()
    results = output.with_name(f"{output.name}.parquet").absolute()
    files = (output.with_name(output.name + name) for name in (".jsonl", "_rejects.jsonl"))
    try:
        check_paths([texts], (prepared, results, *files))
    except ValueError as error:
        msg.fail(str(error), exits=1)
    annotator = {
        "config_path": config.absolute(),
        "llm_path": llm.absolute(),
        "texts": texts.absolute(),
        "overrides": parse_config_overrides(ctx.args),
    }
    try:
        nlp = load_annotator(**annotator, store=":memory:")
    except (ImportError, OSError, ValueError) as error:  # no package, no key, no weights
        msg.fail(str(error), exits=1)
    settings = TextSettings(**nlp.config["texts"])
    settings = replace(settings, limit=limit or settings.limit, sample=sample or settings.sample)
    shutil.rmtree(prepared, ignore_errors=True)
    new = {"num_cpus": num_cpus, "object_store_memory": object_store_mb << 20}
    try:
        passages, left_out = prepare_texts(texts, nlp.tokenizer, settings)
        total = cluster.write_texts(prepared, tqdm(passages, unit="text"), file_size=4 * batch_size)
        shutil.rmtree(results, ignore_errors=True)  # an earlier run's, of other texts perhaps
        if total:  # Ray reads no folder without a file
            # "local", or Ray would look for a cluster in RAY_ADDRESS.
            ray.init(address or "local", include_dashboard=False, **({} if address else new))
            cluster.annotate_on_cluster(
                prepared,
                results,
                store=(store or output.parent / "responses.sqlite").absolute(),
                workers=workers,
                batch_size=batch_size,
                code=code and code.absolute(),
                **annotator,
            )
        annotated = cluster.read_results(results) if total else ()
        annotated = tqdm(annotated, total=total, unit="text")
        summary = write_annotations(output, annotated, left_out).to_dict()
    except ray.exceptions.RayError as error:
        msg.fail(
            "The cluster stopped. Run again: what was answered is stored, and only the rest is "
            f"asked.\n{error}",
            exits=1,
        )
    except ValueError as error:  # a line that holds no text
        msg.fail(str(error), exits=1)
    finally:
        ray.shutdown()
        shutil.rmtree(prepared, ignore_errors=True)
    if metrics is not None:
        metrics.parent.mkdir(parents=True, exist_ok=True)
        metrics.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", "utf8")
    report(summary)
    failed = summary["dropped_texts"].get(NO_ANSWER, 0)
    if failed:
        msg.warn(f"{failed:,} requests failed: run again to repeat them, and only them")
    if not summary["kept"]:
        msg.fail(f"Nothing was annotated; {output}_rejects.jsonl says why", exits=1)
    msg.good(f"{output}.jsonl, {results}")


if __name__ == "__main__":
    app()
