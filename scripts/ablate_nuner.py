"""What NuNER's pre-training owes to its data and its encoder: Tables 4 to 7 in small, and one more.

Each variant changes one thing and is pre-trained for the same number of steps; then the frozen
few-shot protocol tells what its encoder is worth.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from spacy.cli._util import parse_config_overrides
from wasabi import msg

from scripts.evaluate_frozen import DataSet, files_of, probe, read_sets
from scripts.pretrain_closed import keep_types
from scripts.sample_few_shot import read_sizes
from scripts.side_by_side import side_by_side
from spacy_universalner.data.readers import read_json_lines, read_passages
from spacy_universalner.evaluation.benchmarks import FEW_SHOT, PUBLISHED_ABLATIONS
from spacy_universalner.evaluation.fewshot import summarize_runs
from spacy_universalner.evaluation.provenance import checksum, folder_checksums, provenance
from spacy_universalner.nuner.backbone import load_encoder, transformer_layers
from spacy_universalner.nuner.pretrain import pretrain, split_passages
from spacy_universalner.nuner.pretrain_settings import PretrainSettings, read_settings
from spacy_universalner.pretrained import resolve
from spacy_universalner.ty import Passage

# What is varied: the name of its table.
FACTORS = {
    "source": "Text source",
    "concepts": "Concept diversity: the commonest concepts that have this share of the annotations",
    "size": "Data size: sentences",
    "frozen": "Depth frozen: layers that stay as they are, from the bottom",
    "depth": "Model size: layers of the encoder",
    "synonyms": "Negatives: cosine from which on a concept is none for a token of another",
}
SHARES = (0.125, 0.25, 0.5, 0.75, 1.0)  # of the annotations, as in Table 5
SIZES = (0, 300, 1000, 3000)
COSINES = (0.0, 0.8, 0.7, 0.6)  # 0 for none


@dataclass(frozen=True)
class Variant:
    """One pre-training run.

    factor (str): What is varied, one of `FACTORS`.
    name (str): The value that it takes.
    passages (tuple[Passage, ...]): What is pre-trained on; none for the base encoder as it is.
    settings (PretrainSettings): How, but for the number of epochs.
    depth (int): Layers of the encoder.
    """

    factor: str
    name: str
    passages: tuple[Passage, ...]
    settings: PretrainSettings
    depth: int

    @property
    def key(self) -> tuple[str, str]:
        """The table and the column."""
        return self.factor, self.name

    @property
    def run(self) -> tuple[tuple[Passage, ...], PretrainSettings, int]:
        """What decides the result: the same run may stand in several tables."""
        return self.passages, self.settings, self.depth


def main(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="As for pretraining")],
    sentences: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JSONL")],
    passages: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JSONL, longer")],
    data: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of the sets")],
    output: Annotated[Path, typer.Argument(file_okay=False, help="Folder of the results")],
    encoder: Annotated[str | None, typer.Option(help="If not what CONFIG says")] = None,
    factor: Annotated[list[str], typer.Option(help="What to vary")] = list(FACTORS),  # noqa: B006
    steps: Annotated[int, typer.Option(min=1, help="Batches of each run, to full epochs")] = 180,
    benchmark: Annotated[list[str], typer.Option(help="Which data sets")] = list(FEW_SHOT),  # noqa: B006
    k: Annotated[
        list[str], typer.Option(help="Mentions of each type, k to 2k; several with commas")
    ] = ["1,4,16,64"],  # noqa: B006
    seeds: Annotated[int, typer.Option(min=1, help="Training sets for each k")] = 3,
    limit: Annotated[int, typer.Option(min=1, help="Test sentences at most")] = 500,
    resume: Annotated[bool, typer.Option(help="Keep the variants that OUTPUT has already")] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes at once; default: one a core, 1 on a GPU")
    ] = None,
) -> None:
    """Write OUTPUT/ablation.json and .md; a line a variant goes to OUTPUT/ablation.jsonl at once.

    What several tables share is trained once. Settings can be overridden as in `spacy train`:
    --pretraining.learning_rate 3e-5
    """
    if unknown := sorted(set(factor) - set(FACTORS)):
        msg.fail(f"There is no factor {unknown[0]!r}", f"Known: {', '.join(FACTORS)}", exits=1)
    if jobs is None and torch.accelerator.is_available():
        jobs = 1  # all would train on the same one
    overrides = parse_config_overrides(context.args)
    if encoder is not None:
        overrides["pretraining.encoder"] = encoder
    settings = read_settings(config, overrides)
    texts = tuple(read_passages(sentences)), tuple(read_passages(passages))
    variants = [each for each in make_variants(*texts, settings) if each.factor in factor]
    sets = read_sets(data, benchmark, read_sizes(k), seeds, limit)
    output.mkdir(parents=True, exist_ok=True)
    log = output / "ablation.jsonl"
    read = [sentences, passages, *(path for key in sets for path in files_of(data, key))]
    files = {str(path): checksum(path) for path in read}
    made_with = {
        **{"steps": steps, "k": read_sizes(k), "seeds": seeds, "limit": limit},
        **{"benchmarks": list(sets), "settings": json.loads(json.dumps(asdict(settings)))},
        "files": {**files, **folder_checksums(resolve(settings.encoder))},
    }
    earlier = [row for _, row in read_json_lines(log)] if resume and log.is_file() else []
    kept = [row for row in earlier if row["made_with"] == made_with]
    if len(kept) < len(earlier):
        msg.warn(f"{len(earlier) - len(kept)} of {len(earlier)} runs in {log} have other settings")
    rows = {(row["factor"], row["name"]): row for row in kept}
    train = partial(score, steps=steps, sets=sets)
    with log.open("a" if resume else "w", encoding="utf8") as file:
        for row in complete(variants, rows, train, jobs):
            row["made_with"] = made_with
            rows[row["factor"], row["name"]] = row
            print(json.dumps(row), file=file, flush=True)
    results = {
        "variants": [rows[each.key] for each in variants],
        **made_with,
        "provenance": provenance([config, *read]),
    }
    (output / "ablation.json").write_text(json.dumps(results, indent=1) + "\n", "utf8")
    page = make_page(results["variants"], f"{steps} steps, {seeds} training sets a k")
    (output / "ablation.md").write_text(page, "utf8")
    msg.good(f"{output}/ablation.json, {output}/ablation.md")


def complete(
    variants: Iterable[Variant],
    rows: Mapping[tuple[str, str], dict[str, Any]],
    train: Callable[[Variant], dict[str, Any]],
    jobs: int | None,
) -> Iterator[dict[str, Any]]:
    """The rows that are missing, each as soon as it is there; what is the same run is run once."""
    same: dict[Any, list[Variant]] = {}
    for variant in variants:
        same.setdefault(variant.run, []).append(variant)
    todo = {}
    for group in same.values():
        missing = [each for each in group if each.key not in rows]
        made = next((rows[each.key] for each in group if each.key in rows), None)
        if made is None:
            todo[group[0].key] = group
        else:
            yield from ({**made, "factor": each.factor, "name": each.name} for each in missing)
    first = [group[0] for group in todo.values()]
    for row in side_by_side(train, first, jobs=jobs, desc="Ablation"):
        group = todo[row["factor"], row["name"]]
        yield from ({**row, "factor": each.factor, "name": each.name} for each in group)


def make_variants(
    sentences: tuple[Passage, ...], passages: tuple[Passage, ...], settings: PretrainSettings
) -> Iterator[Variant]:
    """All variants, by table."""
    depth = len(transformer_layers(load_encoder(settings.encoder)[0]))
    words = min(count_words(sentences), count_words(passages))
    for name, texts in (("sentences", sentences), ("passages", passages)):
        chosen = cut_to_words(texts, words)
        # As many words in a batch, so that the same number of steps sees as much text.
        ratio = statistics.mean(map(length, sentences)) / statistics.mean(map(length, chosen))
        size = max(1, round(settings.batch_size * ratio))
        yield Variant("source", name, chosen, replace(settings, batch_size=size), depth)
    counts = Counter(mention.label for passage in sentences for mention in passage.mentions)
    for share in SHARES:
        types = cover(counts, share)
        chosen = sentences if share == 1 else tuple(keep_types(sentences, types))
        yield Variant("concepts", f"{len(types)} ({share:.1%})", chosen, settings, depth)
    for size in (*(size for size in SIZES if size < len(sentences)), len(sentences)):
        chosen = tuple(Random(settings.seed).sample(sentences, size))
        chosen = sentences if size == len(sentences) else chosen
        yield Variant("size", f"{size}", chosen, settings, depth)
    for number in range(depth):
        frozen = replace(settings, frozen=(number + 0.5) / depth)
        if number == int(settings.frozen * depth):
            frozen = settings
        yield Variant("frozen", f"{number}", sentences, frozen, depth)
    for number in sorted({max(1, depth // 3), max(1, 2 * depth // 3), depth}):
        yield Variant("depth", f"{number}", sentences, settings, number)
    for cosine in COSINES:
        masked = replace(settings, mask_similar=cosine)
        yield Variant("synonyms", f"{cosine:g}", sentences, masked, depth)


def length(passage: Passage) -> int:
    """Words of a passage."""
    return len(passage.text.split())


def count_words(passages: Iterable[Passage]) -> int:
    """Words of passages."""
    return sum(map(length, passages))


def cut_to_words(passages: Sequence[Passage], words: int) -> tuple[Passage, ...]:
    """The first passages that have about so many words together."""
    chosen = []
    for passage in passages:
        if words <= 0:
            break
        chosen.append(passage)
        words -= length(passage)
    return tuple(chosen)


def cover(counts: Counter[str], share: float) -> list[str]:
    """The commonest concepts that together have a share of all mentions."""
    chosen: list[str] = []
    left = share * counts.total()
    for name, count in counts.most_common():
        if left <= 0:
            break
        chosen.append(name)
        left -= count
    return chosen


def score(variant: Variant, steps: int, sets: Mapping[str, DataSet]) -> dict[str, Any]:
    """Pre-train a variant for about so many steps and probe its encoder."""
    clock = time.perf_counter()
    with TemporaryDirectory() as folder:
        base, trained = Path(folder) / "base", Path(folder) / "trained"
        cut_encoder(variant.settings.encoder, variant.depth, base)
        train, _ = split_passages(variant.passages, variant.settings.dev_fraction, 0)
        epochs = taken = 0
        if train:
            batches = -(-len(train) // variant.settings.batch_size)
            epochs = max(1, round(steps / batches))
            settings = replace(variant.settings, encoder=str(base), epochs=epochs, minutes=0.0)
            taken = pretrain(variant.passages, trained, settings, progress=False)["steps"]
        runs = probe(str(trained if train else base), dict(sets), [-1], progress=False)
    return {
        "factor": variant.factor,
        "name": variant.name,
        "passages": len(variant.passages),
        "words": count_words(variant.passages),
        "mentions": sum(len(passage.mentions) for passage in variant.passages),
        "epochs": epochs,
        "steps": taken,
        "runs": runs,
        "table": {f"{k}": row for k, row in summarize_runs(runs).items()},
        "seconds": round(time.perf_counter() - clock, 1),
    }


def cut_encoder(name: str, depth: int, output: Path) -> None:
    """Write an encoder with only its lowest layers."""
    model, tokenizer = load_encoder(name)
    del transformer_layers(model)[depth:]
    model.config.num_hidden_layers = depth
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)


def make_page(variants: Sequence[Mapping[str, Any]], setup: str) -> str:
    """Tables 4 to 7's layout, ours first, then the paper's."""
    parts = [
        "# What the pre-training owes to what\n",
        f"Token macro-F1 in per cent of a linear layer on the frozen encoder (NuNER 4.1); {setup}. "
        "The paper's figures are RoBERTa-base on up to a million sentences.\n",
    ]
    for factor, title in FACTORS.items():
        rows = [row for row in variants if row["factor"] == factor]
        if not rows:
            continue
        parts += [f"## {title}\n", make_table({row["name"]: row["table"] for row in rows})]
        if factor in PUBLISHED_ABLATIONS:
            table, names, scores = PUBLISHED_ABLATIONS[factor]
            lines = [[f"{k}", *(f"{score:.1f}" for score in row)] for k, row in scores.items()]
            parts += [f"The paper's {table}:\n", to_markdown(["k", *names], lines)]
    return "\n".join(parts)


def make_table(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """A column for each variant, a row for each k."""
    sizes = next(iter(tables.values()))
    rows = []
    for k in sizes:
        cells = [table[k] for table in tables.values()]
        rows.append([k, *(f"{100 * c['mean']:.1f} ± {100 * c['sd']:.1f}" for c in cells)])
    return to_markdown(["k", *tables], rows)


def to_markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of figures."""
    lines = [header, ["---:"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


app = typer.Typer()
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(main)

if __name__ == "__main__":
    app()
