"""An annotation run: texts in, passages with entities out, through a spacy-llm pipeline."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spacy.language import Language
from spacy.tokens import Doc, DocBin
from spacy.util import load_model_from_config
from thinc.api import Config

from ...ty import Passage, Reject
from ..readers import passage_to_dict, write_json_lines
from .costs import count_tokens
from .stored import StoredModel
from .summary import Summary
from .tasks import Annotation, annotation_of

# Texts of a batch for each request that may be under way.
LOOK_AHEAD = 8


@dataclass(frozen=True)
class Plan:
    """What a run has before it.

    texts (int): Texts to annotate.
    requests (int): Those whose answer is not stored yet.
    prompt_tokens (int): Tokens of their prompts.
    """

    texts: int
    requests: int
    prompt_tokens: int


def load_annotator(
    config_path: Path,
    llm_path: Path,
    *,
    texts: Path,
    store: Path | str,
    overrides: Mapping[str, Any] | None = None,
) -> Language:
    """Build the annotation pipeline with a language model of choice.

    config_path (Path): Pipeline with a component `llm` and its task; `configs/annotate_*.cfg`.
    llm_path (Path): The model: a block `[model]`, any entry of `@llm_models`, and `[requires]`
        with the environment variables that it reads; `configs/llm/*.cfg`.
    texts (Path): The input, `paths.texts` in the configs.
    store (Path): SQLite file of the responses, ":memory:" for none.
    overrides (Mapping[str, Any] | None): Values of the config to change, such as
        `{"components.llm.model.model.name": "gpt-4o"}`.
    RETURNS (Language): The pipeline.
    RAISES (EnvironmentError): A variable is not set. Nothing has been done yet.
    """
    llm = Config().from_disk(llm_path, interpolate=False)
    missing = [name for name in llm.get("requires", {}).get("env", []) if not os.getenv(name)]
    if missing:
        raise OSError(
            f"{llm_path} needs {' and '.join(missing)} in the environment. Set it, or name "
            "another model with --llm."
        )
    config = Config().from_disk(config_path, interpolate=False)
    config["paths"] = {**config.get("paths", {}), "texts": str(texts)}
    config["components"]["llm"]["model"] = {
        "@llm_models": "spacy-universalner.Stored.v1",
        "path": str(store),
        "model": llm["model"],
    }
    written = config.to_str(interpolate=False)
    config = Config().from_str(written, interpolate=False, overrides=dict(overrides or {}))
    # Another model or temperature, wherever it is named, has answers of its own.
    stored = config["components"]["llm"]["model"]
    stored.setdefault("identity", Config({"model": stored["model"]}).to_str(interpolate=False))
    return load_model_from_config(config.interpolate(), auto_fill=True)


def stored_model(nlp: Language) -> StoredModel:
    """The model of a pipeline from `load_annotator`, which counts its requests."""
    llm: Any = nlp.get_pipe("llm")
    return llm._model  # spacy-llm has no public name for it


def plan(nlp: Language, passages: Iterable[Passage]) -> Plan:
    """Count what a run has to ask, without asking.

    nlp (Language): The pipeline of `load_annotator`.
    passages (Iterable[Passage]): The texts; streamed.
    RETURNS (Plan): The numbers.
    """
    llm: Any = nlp.get_pipe("llm")
    model = stored_model(nlp)
    texts = requests = prompt_tokens = 0
    for passage in passages:
        (prompt,) = llm.task.generate_prompts([nlp.make_doc(passage.text)])
        texts += 1
        if model.store.get(model.key(prompt)) is None:
            requests += 1
            prompt_tokens += count_tokens(prompt)
    return Plan(texts, requests, prompt_tokens)


def annotate(
    nlp: Language, passages: Iterable[Passage], *, batch_size: int = 64
) -> Iterator[tuple[Passage, Annotation, Doc]]:
    """Send texts through the annotation pipeline.

    nlp (Language): The pipeline of `load_annotator`.
    passages (Iterable[Passage]): The texts; entities that they have already are not looked at.
    batch_size (int): Texts that the model sees at once; more, where it asks for more side by side:
        at the end of a batch, all of its requests wait for the slowest.
    YIELDS (tuple[Passage, Annotation, Doc]): The passages in order with the entities that were
        found, what became of their answers, and their Docs.
    """
    texts = ((passage.text, passage.id) for passage in passages)
    batch_size = max(batch_size, LOOK_AHEAD * (stored_model(nlp).concurrency or 0))
    for doc, id in nlp.pipe(texts, as_tuples=True, batch_size=batch_size):
        annotation = annotation_of(doc)
        del doc.user_data["annotation"]  # which a .spacy file could not hold
        doc.user_data["id"] = id
        yield Passage(id, doc.text, annotation.mentions), annotation, doc


def write_annotations(
    output: Path,
    annotated: Iterable[tuple[Passage, Annotation, Doc | None]],
    left_out: Iterable[tuple[str, Reject]] = (),
) -> Summary:
    """Write the files of a run: OUTPUT.jsonl, OUTPUT_rejects.jsonl and OUTPUT.spacy.

    The JSONL holds exact character offsets and the descriptions of types; the `.spacy` file the
    Docs with the same entities on whole tokens, in `doc.spans`. It is made in memory, about 2 KB a
    sentence, and only if there are Docs.

    output (Path): What their names start with, such as `corpus/nuner`.
    annotated (Iterable[tuple[Passage, Annotation, Doc | None]]): As from `annotate`; streamed.
    left_out (Iterable[tuple[str, Reject]]): Texts that were not sent; read last.
    RETURNS (Summary): What was read.
    """
    summary = Summary()
    docs = DocBin(store_user_data=True)
    rejects_path = output.with_name(f"{output.name}_rejects.jsonl")
    with (
        write_json_lines(output.with_name(f"{output.name}.jsonl")) as write_passage,
        write_json_lines(rejects_path) as write_reject,
    ):
        for passage, annotation, doc in annotated:
            summary.add(passage, annotation)
            for reject in annotation.rejects:
                write_reject(reject_to_dict(reject, passage.id))
            if annotation.dropped is not None:
                write_reject(reject_to_dict(annotation.dropped, passage.id))
                continue
            write_passage(annotated_to_dict(passage, annotation))
            if doc is not None:
                docs.add(doc)
        for id, reject in left_out:
            summary.drop(id, reject)
            write_reject(reject_to_dict(reject, id))
    docs_path = output.with_name(f"{output.name}.spacy")
    docs_path.unlink(missing_ok=True)  # an earlier run's, of other texts perhaps
    if len(docs):
        partial = docs_path.with_name(f"{docs_path.name}.partial")
        docs.to_disk(partial)
        partial.replace(docs_path)
    return summary


def annotated_to_dict(passage: Passage, annotation: Annotation) -> dict[str, Any]:
    """The JSON object of an annotated passage, with the descriptions of its types."""
    row = passage_to_dict(passage)
    for entity in row["entities"]:
        pair = (passage.text[entity["start"] : entity["end"]], entity["label"])
        if pair in annotation.descriptions:
            entity["description"] = annotation.descriptions[pair]
    return row


def reject_to_dict(reject: Reject, id: str) -> dict[str, str]:
    """The JSON object of a reject; the id is its passage's."""
    return {"id": id, "item": reject.item, "reason": reject.reason}
