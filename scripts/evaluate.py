"""Score a pipeline on texts with gold entities, by spans and as the released evaluator does."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from random import Random
from typing import Annotated, Any, TypeVar

import spacy
import typer
from spacy.cli._util import import_code
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.util import get_package_path, is_package
from tqdm import tqdm
from wasabi import msg

from spacy_universalner.data.conversations import answers_by_type
from spacy_universalner.data.negatives import NegativeSampler
from spacy_universalner.data.readers import (
    check_paths,
    doc_to_passage,
    passage_to_dict,
    read_conversations,
    read_docs,
    read_passages,
    write_json_lines,
)
from spacy_universalner.evaluation.provenance import provenance
from spacy_universalner.evaluation.results import Prediction, make_results
from spacy_universalner.ty import Mention, Passage
from spacy_universalner.universal_ner.component import UniversalNER

Item = TypeVar("Item")


class Types(str, Enum):
    """What each text is asked for."""

    pipeline = "pipeline"
    passage = "passage"


def main(
    pipeline: Annotated[str, typer.Argument(help="Any pipeline: a folder or an installed package")],
    data: Annotated[
        list[Path], typer.Argument(exists=True, help="Gold data, .spacy or JSONL; a file, a domain")
    ],
    output: Annotated[Path, typer.Argument(dir_okay=False, help="JSON of the results")],
    types: Annotated[
        Types,
        typer.Option(
            help="pipeline: what the pipeline finds as it is; passage: ask `universal_ner` about "
            "each text's own types and as many absent ones"
        ),
    ] = Types.pipeline,
    component: Annotated[
        str, typer.Option(help="Name of `universal_ner` in the pipeline")
    ] = "universal_ner",
    train: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            help="Conversations: their type frequencies draw absent types and make bands",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Texts of each file at most")] = None,
    spans_key: Annotated[
        str | None, typer.Option(help="Gold entities of .spacy are in these spans, not in doc.ents")
    ] = None,
    code: Annotated[
        Path | None, typer.Option(exists=True, help="Python file with registered functions")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the absent types and the bootstrap")] = 0,
    gpu_id: Annotated[int, typer.Option(help="GPU, or -1 for none")] = -1,
) -> None:
    """Write OUTPUT and, with the entities found in each text, OUTPUT with the suffix .jsonl."""
    predicted = path_of_answers(output, [*data, *([train] if train else [])])
    if gpu_id >= 0:
        spacy.require_gpu(gpu_id)
    import_code(code)
    try:
        passages = [
            (passage, domain)
            for path, domain in zip(data, name_domains(data), strict=True)
            for passage in read_gold(path, limit, spans_key, domain)
        ]
        frequencies = None if train is None else count_types(train)
        nlp = spacy.load(pipeline)
    except (ImportError, OSError, ValueError) as error:
        msg.fail(str(error), exits=1)
    if not any(passage.mentions for passage, _ in passages):
        msg.fail(
            f"No text of {', '.join(map(str, data))} has an entity to find",
            "In .spacy they are those of doc.ents; for a span group name its key by --spans-key.",
            exits=1,
        )
    load_weights(nlp, component, types)
    clock = time.perf_counter()
    if types is Types.passage:
        known = frequencies or Counter(m.label for passage, _ in passages for m in passage.mentions)
        asked = draw_types([passage for passage, _ in passages], known, seed)
        predictions = list(ask(nlp, passages, component, asked))
    else:
        predictions = list(predict(nlp, passages, component))
    seconds = time.perf_counter() - clock
    warn_unanswered(predictions)
    words = sum(len(passage.text.split()) for passage, _ in passages)
    results = {
        "pipeline": str(pipeline),
        "types": types.value,
        "limit": limit,
        "seed": seed,
        "seconds": round(seconds, 2),
        "words_per_second": round(words / seconds, 1),
        **make_results(
            predictions, frequencies=frequencies, asked=asked_words(nlp, component), seed=seed
        ),
        "provenance": provenance([*data, *([train] if train else [])], [folder_of(pipeline)]),
        "config": nlp.config,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", "utf8")
    write_predictions(predicted, predictions)
    show(results)
    msg.good(f"{output}")


def path_of_answers(output: Path, sources: Iterable[Path]) -> Path:
    """The JSONL beside OUTPUT; neither may be a file that is read."""
    answers = output.with_suffix(".jsonl")
    if answers == output:
        msg.fail(f"{output} is for JSON: name it such as {output.with_suffix('.json')}", exits=1)
    try:
        check_paths(sources, (output, answers))
    except ValueError as error:
        msg.fail(str(error), exits=1)
    return answers


def name_domains(paths: Sequence[Path]) -> list[str]:
    """The files' stems; where several are called alike with the folder before, or all of them."""
    names = [path.stem for path in paths]
    for longer in (lambda path: f"{path.resolve().parent.name}/{path.stem}", str):
        names = [
            longer(path) if names.count(name) > 1 else name
            for path, name in zip(paths, names, strict=True)
        ]
    return names


def folder_of(pipeline: str | Path) -> Path:
    """Where a pipeline lies, a folder or an installed package."""
    return get_package_path(str(pipeline)) if is_package(str(pipeline)) else Path(pipeline)


def read_gold(
    path: Path, limit: int | None = None, spans_key: str | None = None, name: str | None = None
) -> Iterator[Passage]:
    """Stream the passages of a `.spacy` or JSONL file; ids that it lacks begin with NAME."""
    if path.suffix == ".spacy":
        docs = enumerate(read_docs(path))
        name = name or path.stem
        passages = (doc_to_passage(doc, f"{name}-{i}", spans_key=spans_key) for i, doc in docs)
    else:
        passages = read_passages(path)
    for i, passage in enumerate(passages):
        if i == limit:
            break
        yield passage


def count_types(conversations: Path) -> Counter[str]:
    """How many strings each type has in the answers of training conversations."""
    counts: Counter[str] = Counter()
    for conversation in read_conversations(conversations):
        for question in conversation.questions:
            counts[question.type] += len(question.answers)
    return +counts


def asked_words(nlp: Language, component: str) -> Mapping[str, str] | None:
    """For each label of `universal_ner` what is asked; None for other pipelines."""
    pipe = nlp.get_pipe(component) if nlp.has_pipe(component) else None
    return pipe.questions.labels if isinstance(pipe, UniversalNER) else None


def draw_types(
    passages: Sequence[Passage], frequencies: Counter[str], seed: int
) -> list[tuple[str, ...]]:
    """For each passage its own types, and as many absent ones drawn by their frequency."""
    sampler = NegativeSampler(frequencies)
    drawn = []
    for passage in passages:
        own = sorted(answers_by_type(passage))
        drawn.append((*own, *sampler.sample(own, len(own), Random(f"{seed} {passage.id}"))))
    return drawn


def load_weights(nlp: Language, component: str, types: Types = Types.pipeline) -> None:
    """Run one word, as weights that are loaded with the first document are no part of the speed."""
    word = [(Passage("", "word"), "")]
    if types is Types.passage:
        list(ask(nlp, word, component, [("word",)]))
    else:
        list(predict(nlp, word, component))


def predict(
    nlp: Language, passages: Sequence[tuple[Passage, str]], component: str
) -> Iterator[Prediction]:
    """Run a pipeline as it is; its `doc.ents` are its predictions."""
    labels = sorted({mention.label for passage, _ in passages for mention in passage.mentions})
    docs = nlp.pipe(passage.text for passage, _ in passages)
    for (passage, domain), doc in zip(passages, progress(docs, len(passages)), strict=True):
        found = mentions_of(doc.ents), listed(doc, component)
        yield Prediction(passage, tuple(labels), *found, domain, unanswered(doc, component))


def ask(
    nlp: Language,
    passages: Sequence[tuple[Passage, str]],
    component: str,
    asked: Sequence[tuple[str, ...]],
) -> Iterator[Prediction]:
    """Ask about each text's own types; all spans are the predictions, since types may overlap."""
    pipe = nlp.get_pipe(component)
    if pipe.annotator.annotate == "ents":
        pipe.annotator.annotate = "both"
    each = zip(passages, asked, strict=True)
    for (passage, domain), types in progress(each, len(passages)):
        pipe.initialize(lambda: (), labels=list(types))
        doc = nlp(passage.text)
        found = mentions_of(doc.spans[pipe.annotator.spans_key]), listed(doc, component)
        yield Prediction(passage, types, *found, domain, unanswered(doc, component))


def mentions_of(spans: Iterable[Span]) -> tuple[Mention, ...]:
    return tuple(Mention(span.start_char, span.end_char, span.label_) for span in spans)


def listed(doc: Doc, component: str) -> dict[str, tuple[str, ...]] | None:
    """The strings that `universal_ner` was answered with, by type, as the model has written them.

    What does not stand in the text counts against the model here too, as it does in the released
    evaluator.
    """
    if component not in doc.user_data:
        return None
    strings = doc.user_data[component]["strings"]
    return {type_: tuple(items) for type_, items in strings.items()}


def unanswered(doc: Doc, component: str) -> dict[str, str]:
    """The types that `universal_ner` got no answer for, about the text or a part, and why."""
    errors = doc.user_data.get(component, {}).get("errors", ())
    return {each["label"]: each["error"] for each in reversed(errors)}  # the first is kept


def warn_unanswered(predictions: Iterable[Prediction], what: str = "") -> None:
    """Say how many questions have no answer, as the scores alone do not."""
    reasons = [why for prediction in predictions for why in prediction.unanswered.values()]
    if reasons:
        msg.warn(
            f"{what}{len(reasons):,} questions have no answer, or none about a part of the text, "
            f"and count as answered with nothing there, such as: {reasons[0]}"
        )


def progress(items: Iterable[Item], total: int) -> Iterator[Item]:
    return iter(tqdm(items, total=total, unit="text", leave=False))


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write each text with its gold entities and those that were found."""
    with write_json_lines(path) as write:
        for prediction in predictions:
            row = passage_to_dict(prediction.passage)
            found = Passage(row["id"], row["text"], prediction.mentions)
            failed = {"unanswered": prediction.unanswered} if prediction.unanswered else {}
            write(
                {
                    "id": row["id"],
                    "domain": prediction.domain,
                    "text": row["text"],
                    "types": list(prediction.types),
                    "gold": row["entities"],
                    "predicted": passage_to_dict(found)["entities"],
                    **failed,
                }
            )


def show(results: dict[str, Any]) -> None:
    """Print the overall scores."""
    names = {"span": "strict spans", "string_set": "string sets", "partial": "partial match"}
    rows = []
    for metric, name in names.items():
        scores = results[metric]
        figures = (f"{100 * scores[score]:.1f}" for score in ("precision", "recall", "f1"))
        rows.append((name, *figures, f"{100 * scores['low']:.1f}-{100 * scores['high']:.1f}"))
    msg.table(rows, header=("", "P", "R", "F1", "95%"), aligns=("l", "r", "r", "r", "r"))


if __name__ == "__main__":
    typer.run(main)
