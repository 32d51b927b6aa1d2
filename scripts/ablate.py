"""What the choices of UniversalNER's recipe are worth, on a small student (UniversalNER 5)."""

import json
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from itertools import product
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from spacy.cli._util import parse_config_overrides
from transformers import AutoModelForCausalLM, AutoTokenizer
from wasabi import msg

from spacy_universalner.data.conversations import TextSplit, build_conversations
from spacy_universalner.data.formats.conll import read_conll
from spacy_universalner.data.negatives import NegativeSampler, Strategy
from spacy_universalner.data.readers import read_passages
from spacy_universalner.evaluation.benchmarks import BENCHMARKS, ZERO_SHOT, word_labels
from spacy_universalner.evaluation.provenance import folder_checksums, provenance
from spacy_universalner.precision import find_device
from spacy_universalner.ty import Conversation, Passage
from spacy_universalner.universal_ner.finetune import finetune
from spacy_universalner.universal_ner.finetune_dev import score_answers
from spacy_universalner.universal_ner.finetune_settings import (
    BudgetSettings,
    FinetuneSettings,
    read_settings,
)

SENTENCES, PASSAGES, GOLD = "held-out sentences", "held-out passages", "gold task"


@dataclass(frozen=True)
class Variant:
    """A way to train; the defaults are the paper's.

    negatives (str): Strategy of negative sampling.
    ask (str): "type", "definition" or "all-in-one" (Figure 5b).
    gold (bool): Also train on the gold task, whose labels conflict with the corpus's types.
    named (bool): Name the data set of each text, in training and when asked (Figure 3).
    acknowledgement (bool): Also learn the fixed acknowledgement, as the released code does.
    share (float): How much of the texts, and so of the steps, there is.
    """

    negatives: Strategy = "frequency"
    ask: str = "type"
    gold: bool = False
    named: bool = False
    acknowledgement: bool = False
    share: float = 1.0

    @property
    def name(self) -> str:
        flags = [key for key in ("gold", "named", "acknowledgement") if getattr(self, key)]
        parts = [f"{self.share:g}"] if self.share < 1 else []
        return "-".join([self.negatives, self.ask, *flags, *parts])

    @property
    def template(self) -> str:
        return {"type": "serve", "definition": "definition", "all-in-one": "all_in_one"}[self.ask]


DEFAULTS = asdict(Variant())

# A table: its title, and what its rows are called.
Table = tuple[str, dict[str, Variant]]

# One choice at a time, the others as in the paper.
FACTORS: dict[str, Table] = {
    "negatives": (
        "Negative sampling (the layout of Table 4)",
        {
            "none": Variant(negatives="none"),
            "uniform": Variant(negatives="uniform"),
            "frequency": Variant(),
        },
    ),
    "questions": (
        "What is asked (Figure 5b)",
        {
            "type": Variant(),
            "definition": Variant(ask="definition"),
            "all-in-one": Variant(ask="all-in-one"),
        },
    ),
    "template": (
        "Dataset template, trained on the gold task too (Figure 6)",
        {
            "without the name": Variant(gold=True),
            "with the name": Variant(gold=True, named=True),
        },
    ),
    "loss": (
        "What the loss is taken on",
        {
            "answers": Variant(),
            "answers and acknowledgement": Variant(acknowledgement=True),
        },
    ),
    "size": (
        "Training texts",
        {
            "a quarter": Variant(share=0.25),
            "half": Variant(share=0.5),
            "all": Variant(),
        },
    ),
}

app = typer.Typer(add_completion=False)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def main(
    ctx: typer.Context,
    config: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Settings (.cfg)")],
    student: Annotated[str, typer.Argument(help="Folder or hub id of any causal language model")],
    output: Annotated[Path, typer.Argument(file_okay=False, help="Folder of the results")],
    sentences: Annotated[Path, typer.Option(exists=True, help="Annotated, with definitions")],
    passages: Annotated[Path, typer.Option(exists=True, help="Annotated; tested on only")],
    gold_train: Annotated[Path, typer.Option(exists=True, help="Training part of the gold task")],
    gold_test: Annotated[Path, typer.Option(exists=True, help="Its test part")],
    definitions: Annotated[
        Path, typer.Option(exists=True, help="JSON: what the gold labels mean")
    ] = Path("configs/definitions.json"),
    benchmarks: Annotated[
        Path | None, typer.Option(help="Folder with test sets of CrossNER and MIT, those it has")
    ] = None,
    factor: Annotated[
        list[str] | None, typer.Option(help=f"Of {', '.join(FACTORS)}; all by default")
    ] = None,
    cross: Annotated[
        bool, typer.Option("--cross", help="One table of every combination of the factors' rows")
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each variant")] = 3,
    texts: Annotated[int, typer.Option(min=1, help="Sentences to train on")] = 1000,
    test_texts: Annotated[int, typer.Option(min=1, help="Texts of each test set at most")] = 60,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer")] = 128,
) -> None:
    """Write OUTPUT/ablations.json and .md: string-set F1, mean and deviation over the seeds.

    Each run is kept in OUTPUT/runs, so that a run of the program that was stopped goes on; those
    with other settings or data are kept beside. Settings can be overridden as in `spacy train`:
    --training.max_steps 100
    """
    chosen = factor or list(FACTORS)
    for name in chosen:
        if name not in FACTORS:
            msg.fail(f"There is no factor '{name}'. Use one of {', '.join(FACTORS)}.", exits=1)
    tables = {" x ".join(chosen): combine(chosen)} if cross else {n: FACTORS[n] for n in chosen}
    settings = read_settings(config, parse_config_overrides(ctx.args))
    data = Data(sentences, passages, gold_train, gold_test, definitions, benchmarks)
    if benchmarks is not None and not data.benchmark_files():
        expected = ", ".join(BENCHMARKS[key].test for key in ZERO_SHOT)
        msg.warn(
            f"{benchmarks} has no test set of CrossNER and MIT, which the tables will lack. "
            f"Expected any of {expected}."
        )
    variants = dict.fromkeys(v for _, rows in tables.values() for v in rows.values())
    made_with = {
        "student": student,
        "weights": folder_checksums(student),
        "texts": texts,
        "test_texts": test_texts,
        "max_new_tokens": max_new_tokens,
        "settings": asdict(settings),
        "provenance": provenance(data.files()),
    }
    made = digest(made_with)
    scores: dict[str, list[dict[str, float]]] = {}
    for variant in variants:
        tests = data.tests(variant, test_texts)
        for seed in range(seeds):
            path = output / "runs" / f"{variant.name}-{seed}-{made}.json"
            if path.exists():
                run = json.loads(path.read_text("utf8"))
            else:
                msg.divider(f"{variant.name}, seed {seed}")
                train = data.train(variant, texts, seed)
                f1 = train_and_score(settings, student, variant, seed, train, tests, max_new_tokens)
                run = {"variant": asdict(variant), "seed": seed, "f1": f1, "made_with": made_with}
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(run, indent=2) + "\n", "utf8")
            scores.setdefault(variant.name, []).append(run["f1"])
    report = {
        "scale": "a scale-down of the paper's experiments",
        "seeds": seeds,
        "factors": {name: summarize(rows, scores) for name, (_, rows) in tables.items()},
        **made_with,
    }
    (output / "ablations.json").write_text(json.dumps(report, indent=2) + "\n", "utf8")
    page = make_tables(report, {name: title for name, (title, _) in tables.items()})
    (output / "ablations.md").write_text(page, "utf8")
    typer.echo(page)
    msg.good(f"{output}/ablations.json, {output}/ablations.md")


def combine(factors: list[str]) -> Table:
    """Every combination of the rows of several factors, which vary different fields."""
    rows = {}
    for choices in product(*(FACTORS[name][1].items() for name in factors)):
        changed: dict[str, Any] = {}
        for _, variant in choices:
            fields = asdict(variant)
            changed |= {key: fields[key] for key in fields if fields[key] != DEFAULTS[key]}
        rows[", ".join(row for row, _ in choices)] = Variant(**changed)
    return " x ".join(FACTORS[name][0] for name in factors), rows


@dataclass(frozen=True)
class Data:
    """The files of the ablations, and what is made of them. A tenth of the texts is held out."""

    sentences: Path
    passages: Path
    gold_train: Path
    gold_test: Path
    definitions: Path
    benchmarks: Path | None

    def files(self) -> list[Path]:
        """All files that are read."""
        own = [self.sentences, self.passages, self.gold_train, self.gold_test, self.definitions]
        return [*own, *self.benchmark_files().values()]

    def train(self, variant: Variant, texts: int, seed: int) -> list[Conversation]:
        """Training conversations: each seed draws its own texts, negatives and orders."""
        sentences = self._corpus(self.sentences, variant, "train")
        sampler = NegativeSampler(count_types(sentences), variant.negatives)
        sentences = Random(seed).sample(sentences, min(texts, len(sentences)))
        sentences = sentences[: round(variant.share * len(sentences))]
        dataset = "corpus" if variant.named else None
        conversations = list(build_conversations(sentences, sampler, dataset=dataset, seed=seed))
        if variant.gold:
            gold = self._gold(self.gold_train, variant)
            closed = NegativeSampler(count_types(gold), "all")
            dataset = "gold" if variant.named else None
            conversations += build_conversations(gold, closed, dataset=dataset, seed=seed)
        Random(seed).shuffle(conversations)
        return conversations

    def tests(self, variant: Variant, texts: int) -> dict[str, list[Conversation]]:
        """What is asked, the same for all seeds; a set without definitions has none to ask by.

        Of held-out texts, their own types and as many absent ones; of the others, all labels.
        """
        tests = {}
        corpora = {SENTENCES: self.sentences}
        if variant.ask != "definition":
            corpora[PASSAGES] = self.passages
        for name, path in corpora.items():
            sampler = NegativeSampler(count_types(self._corpus(path, variant, "train")))
            heldout = self._corpus(path, variant, "heldout")[:texts]
            tests[name] = list(
                build_conversations(heldout, sampler, dataset="corpus" if variant.named else None)
            )
        gold = self._gold(self.gold_test, variant)
        closed = {GOLD: (gold, "gold" if variant.named else None)}
        if variant.ask != "definition":
            for key, path in self.benchmark_files().items():
                closed[BENCHMARKS[key].name] = (in_words(read_conll(path)), None)
        for name, (labelled, dataset) in closed.items():
            sampler = NegativeSampler(count_types(labelled), "all")
            tests[name] = list(build_conversations(labelled[:texts], sampler, dataset=dataset))
        return tests

    def _corpus(self, path: Path, variant: Variant, split: str) -> list[Passage]:
        label = "description" if variant.ask == "definition" else "label"
        where = TextSplit(held_out=0.1, dev=0.0)
        return [p for p in read_passages(path, label=label) if where(p.text) == split]

    def _gold(self, path: Path, variant: Variant) -> list[Passage]:
        if variant.ask != "definition":
            return in_words(read_passages(path))
        return in_words(read_passages(path), json.loads(self.definitions.read_text("utf8")))

    def benchmark_files(self) -> dict[str, Path]:
        """The test sets of CrossNER and MIT that there are, by their keys."""
        if self.benchmarks is None:
            return {}
        paths = {key: self.benchmarks / BENCHMARKS[key].test for key in ZERO_SHOT}
        return {key: path for key, path in paths.items() if path.is_file()}


def in_words(passages: Iterable[Passage], words: dict[str, str] | None = None) -> list[Passage]:
    """Passages whose labels are what is asked; labels that name no type are left out."""
    passages = list(passages)
    words = words or word_labels({m.label for passage in passages for m in passage.mentions})
    return [
        replace(
            passage,
            mentions=tuple(
                replace(m, label=words[m.label]) for m in passage.mentions if m.label in words
            ),
        )
        for passage in passages
    ]


def count_types(passages: Iterable[Passage]) -> Counter[str]:
    """How many mentions each type has."""
    return Counter(mention.label for passage in passages for mention in passage.mentions)


def train_and_score(
    settings: FinetuneSettings,
    student: str,
    variant: Variant,
    seed: int,
    train: list[Conversation],
    tests: dict[str, list[Conversation]],
    max_new_tokens: int,
) -> dict[str, float]:
    """Tune a student as a variant says and ask it; string-set F1 by test set.

    Answers are constrained to strings of the text.
    """
    changed = {"acknowledgement_loss": variant.acknowledgement, "template": variant.template}
    settings = replace(
        settings,
        data=replace(settings.data, **changed),
        budget=BudgetSettings(),  # as many steps for each, however long they take
        training={**settings.training, "seed": seed, "save_strategy": "no"},
    )
    with TemporaryDirectory() as folder:
        finetune(settings, student, train, Path(folder))
        model = AutoModelForCausalLM.from_pretrained(folder).eval().to(find_device())
        tokenizer = AutoTokenizer.from_pretrained(folder)
    return {
        name: score_answers(
            model,
            tokenizer,
            conversations,
            template=variant.template,
            max_new_tokens=max_new_tokens,
            constrain="text",
        ).f1
        for name, conversations in tests.items()
    }


def digest(made_with: dict[str, Any]) -> str:
    """What runs with the same settings on the same data share, whenever they were made."""
    lasting = {**made_with, "provenance": made_with["provenance"]["data"]}
    return sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()[:12]


def summarize(
    variants: dict[str, Variant], scores: dict[str, list[dict[str, float]]]
) -> dict[str, Any]:
    """Mean and deviation of each row of a table, over the test sets that all its rows have."""
    rows = {name: scores[variant.name] for name, variant in variants.items()}
    sets = [
        name for name in next(iter(rows.values()))[0] if all(name in r[0] for r in rows.values())
    ]
    return {
        row: {
            **{name: spread(run[name] for run in runs) for name in sets},
            "mean": spread(statistics.mean(run[name] for name in sets) for run in runs),
        }
        for row, runs in rows.items()
    }


def spread(values: Iterable[float]) -> dict[str, Any]:
    values = list(values)
    sd = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.mean(values), "sd": sd, "values": values}


def make_tables(report: dict[str, Any], titles: dict[str, str]) -> str:
    """The tables in Markdown."""
    lines = [
        f"String-set F1, mean ± sd over {report['seeds']} seed(s); what a row does not name is "
        "the recipe's (frequency, type, no name, answers). A scale-down of the paper's: "
        f"student `{report['student']}`, {report['texts']:,} training sentences, at most "
        f"{report['test_texts']} texts of each test set."
    ]
    for factor, rows in report["factors"].items():
        sets = list(next(iter(rows.values())))
        header = ["Choice", *sets[:-1], "Mean"]
        lines += ["", f"### {titles[factor]}", "", f"| {' | '.join(header)} |"]
        lines.append(f"| --- |{' ---: |' * len(sets)}")
        for row, scores in rows.items():
            cells = (f"{100 * s['mean']:.1f} ± {100 * s['sd']:.1f}" for s in scores.values())
            lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    app()
