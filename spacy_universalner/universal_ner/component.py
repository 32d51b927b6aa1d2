"""The pipeline component `universal_ner`: asks a language model for entities, type by type."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, cast

import spacy_llm  # noqa: F401  (makes the registry of the default model)
import srsly
from spacy import util
from spacy.language import Language
from spacy.pipeline import Pipe
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import SimpleFrozenList

from spacy_universalner import scores
from spacy_universalner.data.store import ResponseStore
from spacy_universalner.ty import (
    Answer,
    AnsweringModel,
    LanguageModel,
    ModelWithIdentity,
    ModelWithOffsets,
    Prompt,
)
from spacy_universalner.universal_ner.annotator import Annotator, count, records
from spacy_universalner.universal_ner.questions import Questions
from spacy_universalner.universal_ner.serialization import (
    ModelWithWeights,
    has_local_weights,
    pack,
    unpack,
)
from spacy_universalner.universal_ner.windows import Window, plan_windows

DEFAULT_MODEL_CONFIG = {
    "@llm_models": "spacy-universalner.HF.v1",
    "name": "Universal-NER/UniNER-7B-type",
}
DEFAULT_SCORER_CONFIG = {"@scorers": "spacy-universalner.EntityScorer.v1"}


@Language.factory(
    "universal_ner",
    assigns=["doc.ents", "doc.spans"],
    default_config={
        "labels": ["person", "organization", "location"],
        "model": DEFAULT_MODEL_CONFIG,
        "template": "serve",
        "dataset": None,
        "annotate": "both",
        "spans_key": None,
        "conflict": "longest",
        "overwrite_ents": False,
        "occurrences": "all",
        "alignment_mode": "expand",
        "threshold": 0.0,
        "label_thresholds": {},
        "max_new_tokens": None,
        "window": 512,
        "stride": 64,
        "cache": None,
        "on_error": "raise",
        "save_io": False,
        "scorer": DEFAULT_SCORER_CONFIG,
    },
    default_score_weights={"ents_f": 1.0, "ents_p": 0.0, "ents_r": 0.0, "ents_per_type": None},
)
def make_universal_ner(
    nlp: Language,
    name: str,
    labels: list[str] | dict[str, str] | None,
    model: Callable[..., Any],
    template: str,
    dataset: str | None,
    annotate: Literal["ents", "spans", "both"],
    spans_key: str | None,
    conflict: Literal["longest", "score", "label_order"],
    overwrite_ents: bool,
    occurrences: Literal["all", "first"],
    alignment_mode: Literal["strict", "contract", "expand"],
    threshold: float,
    label_thresholds: dict[str, float],
    max_new_tokens: int | None,
    window: int,
    stride: int,
    cache: str | None,
    on_error: Literal["raise", "record"],
    save_io: bool,
    scorer: Callable[..., Any] | None,
) -> UniversalNER:
    """Construct a `universal_ner` component.

    nlp (Language): The pipeline.
    name (str): The instance name; the key of what it leaves in `doc.user_data`.
    labels (list[str] | dict[str, str] | None): What to ask for, or from label to what is asked:
        words or a definition. None for discovery: entities of whatever type the model finds.
    model (Callable): Any entry of `@llm_models`, spacy-llm's own or this package's. Its weights
        are loaded when the first document comes.
    template (str): Wording of the questions: "serve" (the released models), "train" (the released
        training code), "definition" or "all_in_one" (one question for all labels).
    dataset (str | None): Name for the dataset-specific template (Figure 3).
    annotate (str): What to set: "ents", "spans" or "both".
    spans_key (str | None): Key of `doc.spans` for every span, overlapping ones too, with their
        scores in `attrs["scores"]`. None for the instance name.
    conflict (str): How overlaps resolve into `doc.ents`: "longest", "score" or "label_order".
    overwrite_ents (bool): Whether an entity replaces those of earlier components that it
        overlaps. The others are kept in any case.
    occurrences (str): Where a string that stands several times in the text goes: "all" or "first".
    alignment_mode (str): How strings that do not start and end with a token align: "strict",
        "contract" or "expand", as in `Doc.char_span`.
    threshold (float): Strings with a lower score are not used. Models that give no scores are not
        affected.
    label_thresholds (dict[str, float]): The same for single labels, in place of `threshold`.
    max_new_tokens (int | None): Longest answer, in the model's tokens; this room is kept in its
        context. None for the model's own setting, 256 for those of this package.
    window (int): Longest stretch of text that is asked about at once, in the model's tokens, or
        in spaCy's where the model cannot tell its own.
    stride (int): Tokens that neighbouring windows share, at most.
    cache (str | None): SQLite file for the answers, each stored as it arrives and found again by
        model, decoding and prompt.
    on_error (str): What to do when the model fails on a document: "raise" (through the pipeline's
        error handler) or "record" in `doc.user_data[name]["errors"]` and go on.
    save_io (bool): Whether to keep prompts and answers in `doc.user_data[name]["io"]`.
    scorer (Callable | None): The scoring method.
    RETURNS (UniversalNER): The component.
    """
    scores.register()
    return UniversalNER(
        name,
        cast(LanguageModel, model),
        labels=labels,
        template=template,
        dataset=dataset,
        annotator=Annotator(
            spans_key=name if spans_key is None else spans_key,
            annotate=annotate,
            conflict=conflict,
            overwrite_ents=overwrite_ents,
            occurrences=occurrences,
            alignment_mode=alignment_mode,
            threshold=threshold,
            label_thresholds=label_thresholds,
        ),
        max_new_tokens=max_new_tokens,
        window=window,
        stride=stride,
        cache=None if cache is None else ResponseStore(cache),
        on_error=on_error,
        save_io=save_io,
        scorer=scorer,
    )


@dataclass
class _Task:
    """A document with what is asked about it."""

    doc: Doc
    windows: list[Window]
    prompts: list[list[Prompt]]


class UniversalNER(Pipe):
    """Asks a language model for the entities of each type and aligns its answers (UniversalNER).

    Every span, overlapping ones too, goes to `doc.spans[spans_key]` with `attrs["scores"]` and
    `span._.score`; those that are left when overlaps are resolved go to `doc.ents`. Whatever the
    model answers that is not used stands in `doc.user_data[name]["rejects"]` with its reason, and
    `["counts"]` counts the reasons.
    """

    def __init__(
        self,
        name: str,
        model: LanguageModel,
        *,
        labels: Sequence[str] | Mapping[str, str] | None,
        template: str = "serve",
        dataset: str | None = None,
        annotator: Annotator,
        max_new_tokens: int | None = None,
        window: int = 512,
        stride: int = 64,
        cache: ResponseStore | None = None,
        on_error: Literal["raise", "record"] = "raise",
        save_io: bool = False,
        scorer: Callable[..., Any] | None = None,
    ) -> None:
        """Initialize the component. See `make_universal_ner` for the arguments."""
        if not 0 <= stride < window:
            raise ValueError(
                f"'{name}': stride must be at least 0 and smaller than window, got stride = "
                f"{stride} and window = {window}."
            )
        if cache is not None and not isinstance(model, ModelWithIdentity):
            raise ValueError(
                f"'{name}': a cache must know which model and decoding its answers belong to, and "
                f"{type(model).__name__} does not say. Set cache = null, or wrap the model in "
                "spacy-universalner.Stored.v1 with an `identity`."
            )
        self.name = name
        self.model = model
        self.annotator = annotator
        self.window = window
        self.stride = stride
        self.cache = cache
        self.on_error = on_error
        self.save_io = save_io
        self.scorer = scorer
        self.questions = Questions(_asked(labels), template, dataset)
        self._initial = self._state()
        if max_new_tokens is not None:
            self.model.max_new_tokens = max_new_tokens  # type: ignore[attr-defined]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in order; empty in discovery."""
        return tuple(self.questions.labels or ())

    @property
    def label_data(self) -> dict[str, str] | None:
        """From label to what is asked, as `initialize` takes it."""
        return self.questions.labels

    def add_label(self, label: str, asked: str | None = None) -> int:
        """Ask for one more label.

        label (str): The label.
        asked (str | None): What is asked: words or a definition. None for the label itself.
        RETURNS (int): 0 if the label was there already, 1 if not.
        RAISES (ValueError): The component is in discovery and asks for no labels.
        """
        if self.questions.labels is None:
            raise ValueError(
                f"'{self.name}' has labels = null and finds entities of whatever type there are. "
                "To ask for labels, set `labels` to a list or a mapping."
            )
        if label in self.questions.labels:
            return 0
        self.questions.labels[label] = label if asked is None else asked
        return 1

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        labels: dict[str, str] | list[str] | None = None,
    ) -> None:
        """Set the labels, if `initialize.components` gives any. Nothing is trained.

        get_examples (Callable[[], Iterable[Example]]): Not used.
        nlp (Language | None): The pipeline.
        labels (dict[str, str] | list[str] | None): As in the component's config.
        """
        if labels is not None:
            self.questions.labels = _asked(labels)

    def __call__(self, doc: Doc) -> Doc:
        """Annotate a document.

        doc (Doc): The document; modified in place.
        RETURNS (Doc): The same.
        """
        for annotated in self.pipe((doc,), batch_size=1):
            return annotated
        return doc

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Annotate a stream of documents.

        stream (Iterable[Doc]): The documents; modified in place.
        batch_size (int): Documents to read ahead, so that the model can batch over them.
        YIELDS (Doc): The documents, in order.
        """
        for docs in util.minibatch(stream, batch_size):
            yield from self._annotate(docs)

    def _annotate(self, docs: Iterable[Doc]) -> Iterator[Doc]:
        """Ask about all documents at once; if that fails, about each alone to find the culprit."""
        handle = self.get_error_handler()
        tasks = []
        for doc in docs:
            try:
                tasks.append(self._plan(doc))
            except Exception as error:
                handle(self.name, self, [doc], error)
        answers = self._ask([prompts for task in tasks for prompts in task.prompts])
        together = True
        for task in tasks:
            try:
                if together:
                    try:
                        own = list(islice(answers, len(task.windows)))
                    except Exception:
                        if len(tasks) == 1:
                            raise
                        together = False
                if not together:
                    own = list(self._ask(task.prompts))
                self._set_annotations(task, own)
            except Exception as error:
                handle(self.name, self, [task.doc], error)
            else:
                yield task.doc

    def _plan(self, doc: Doc) -> _Task:
        windows = self._windows(doc)
        prompts = [self.questions.prompts(doc.text[each.start : each.end]) for each in windows]
        return _Task(doc, windows, prompts)

    def _windows(self, doc: Doc) -> list[Window]:
        """What of the document is asked about at once; nothing of a blank one."""
        text = doc.text
        if not text.strip() or self.questions.labels == {}:
            return []
        size, offsets = self.window, None
        if isinstance(self.model, ModelWithOffsets):
            offsets = self.model.token_offsets(text)
            room = self._room()
            if room is not None:
                size = min(size, room)
        else:
            offsets = [(token.idx, token.idx + len(token)) for token in doc]
        if len(offsets) <= size:
            return [Window(0, len(text))]
        sentences = [sentence.start_char for sentence in doc.sents] if _has_sentences(doc) else []
        words = [token.idx for token in doc]
        return plan_windows(text, offsets, size, min(self.stride, size // 2), sentences, words)

    def _room(self) -> int | None:
        """Tokens of text that fit into the model's context beside question and answer."""
        model = cast(ModelWithOffsets, self.model)
        if model.context_length is None:
            return None
        frames = {str(prompt) for prompt in self.questions.prompts("")}
        # The tokenizer may add a token at the start, and text may split differently in a prompt.
        frame = max((len(model.token_offsets(each)) for each in frames), default=0) + 4
        answer = getattr(model, "max_new_tokens", 0)
        room = model.context_length - frame - answer
        if room < 1:
            raise ValueError(
                f"'{self.name}': the longest question ({frame} tokens) and max_new_tokens = "
                f"{answer} leave no room for text in the model's context of "
                f"{model.context_length} tokens. Lower max_new_tokens or shorten the definitions."
            )
        return room

    def _ask(self, groups: Sequence[Sequence[Prompt]]) -> Iterator[list[Answer]]:
        """Answer groups of prompts in order, from the cache where it can."""
        if self.cache is None:
            yield from self._ask_model(groups)
            return
        store, identity = self.cache, cast(ModelWithIdentity, self.model).identity
        keys = [[store.key(identity, prompt) for prompt in prompts] for prompts in groups]
        known = [[store.get(key) for key in group] for group in keys]
        missing = [
            [prompt for prompt, value in zip(prompts, values, strict=True) if value is None]
            for prompts, values in zip(groups, known, strict=True)
        ]
        fresh = self._ask_model([prompts for prompts in missing if prompts])
        for group, values in zip(keys, known, strict=True):
            new = iter(next(fresh)) if None in values else iter(())
            answers = []
            for key, value in zip(group, values, strict=True):
                if value is not None:
                    answers.append(Answer(**json.loads(value)))
                    continue
                answer = next(new)
                if answer.error is None:
                    store.put(key, json.dumps(asdict(answer)))
                answers.append(answer)
            yield answers

    def _ask_model(self, groups: Sequence[Sequence[Prompt]]) -> Iterator[list[Answer]]:
        answered = 0
        if isinstance(self.model, AnsweringModel):
            replies = self.model.answer(groups)
        else:
            responses = self.model(groups) if groups else ()
            replies = ([Answer(str(text)) for text in group] for group in responses)
        for prompts, answers in zip(groups, replies, strict=False):
            if len(answers) != len(prompts):
                raise ValueError(
                    f"'{self.name}': the model gave {len(answers)} answers to {len(prompts)} "
                    "prompts of a text. It must answer each."
                )
            answered += 1
            yield answers
        if answered < len(groups):
            raise ValueError(
                f"'{self.name}': the model answered for {answered} of {len(groups)} texts. It "
                "must answer for each."
            )

    def _set_annotations(self, task: _Task, answers: Sequence[Sequence[Answer]]) -> None:
        subjects = self.questions.subjects()
        errors = [
            {"label": subject, "error": answer.error}
            for group in answers
            for subject, answer in zip(subjects, group, strict=True)
            if answer.error is not None
        ]
        if errors and self.on_error == "raise":
            first = errors[0]
            raise RuntimeError(
                f"'{self.name}': the model failed on {len(errors)} of "
                f"{sum(map(len, answers))} questions, first on '{first['label']}': "
                f'{first["error"]}. Set on_error = "record" to keep what was answered.'
            )
        found, refused = [], []
        for group in answers:
            strings, rejects = self.questions.read(group)
            found.append(strings)
            refused.extend(rejects)
        refused += self.annotator(task.doc, task.windows, found, self.labels)
        record: dict[str, Any] = {"rejects": records(refused), "counts": count(refused)}
        record["errors"] = errors
        if self.save_io:
            record["io"] = [
                {"label": subject, "prompt": str(prompt), "answer": answer.text}
                for prompts, group in zip(task.prompts, answers, strict=True)
                for subject, prompt, answer in zip(subjects, prompts, group, strict=True)
            ]
        task.doc.user_data[self.name] = record

    def _state(self) -> dict[str, Any]:
        """What may be changed after construction."""
        return {
            "labels": self.questions.labels and dict(self.questions.labels),
            "threshold": self.annotator.threshold,
            "label_thresholds": dict(self.annotator.label_thresholds),
        }

    def _changes(self) -> dict[str, Any]:
        """What was changed: only that is saved, so that a config can set the rest anew."""
        return {key: value for key, value in self._state().items() if value != self._initial[key]}

    def _apply(self, changes: dict[str, Any]) -> None:
        if "labels" in changes:
            self.questions.labels = changes["labels"]
        self.annotator.threshold = changes.get("threshold", self.annotator.threshold)
        self.annotator.label_thresholds = changes.get(
            "label_thresholds", self.annotator.label_thresholds
        )

    def to_bytes(self, *, exclude: Iterable[str] = SimpleFrozenList()) -> bytes:
        """Serialize the component as `to_disk` does.

        exclude (Iterable[str]): "cfg" or "model", to leave it out.
        RETURNS (bytes): The component.
        """
        serialize: dict[str, Callable[[], Any]] = {"cfg": lambda: srsly.json_dumps(self._changes())}
        if isinstance(self.model, ModelWithWeights) and has_local_weights(self.model):
            model = self.model
            serialize["model"] = lambda: pack(model)
        return util.to_bytes(serialize, exclude)

    def from_bytes(
        self, bytes_data: bytes, *, exclude: Iterable[str] = SimpleFrozenList()
    ) -> UniversalNER:
        """Load the component.

        bytes_data (bytes): What `to_bytes` has returned.
        exclude (Iterable[str]): "cfg" or "model", to leave it out.
        RETURNS (UniversalNER): The component.
        """
        deserialize: dict[str, Callable[[Any], Any]] = {
            "cfg": lambda data: self._apply(srsly.json_loads(data))
        }
        if isinstance(self.model, ModelWithWeights):
            load = self.model.load_weights
            deserialize["model"] = lambda files: load(unpack(files))
        util.from_bytes(bytes_data, deserialize, exclude)
        return self

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = SimpleFrozenList()) -> None:
        """Save the component: what was changed since it was made, and the model's weights.

        Weights from a local folder are copied; those from the hub stay a name and a revision in
        the pipeline's config.

        path (str | Path): The folder; made when missing.
        exclude (Iterable[str]): "cfg" or "model", to leave it out.
        """
        serialize: dict[str, Callable[[Path], Any]] = {
            "cfg": lambda p: srsly.write_json(p, self._changes())
        }
        if isinstance(self.model, ModelWithWeights) and has_local_weights(self.model):
            serialize["model"] = self.model.save_weights
        util.to_disk(path, serialize, exclude)

    def from_disk(
        self, path: str | Path, *, exclude: Iterable[str] = SimpleFrozenList()
    ) -> UniversalNER:
        """Load the component.

        path (str | Path): The folder.
        exclude (Iterable[str]): "cfg" or "model", to leave it out.
        RETURNS (UniversalNER): The component.
        """
        deserialize: dict[str, Callable[[Path], Any]] = {
            "cfg": lambda p: self._apply(srsly.read_json(p))
        }
        if isinstance(self.model, ModelWithWeights):
            load = self.model.load_weights
            deserialize["model"] = lambda p: load(p) if p.exists() else None
        util.from_disk(path, deserialize, exclude)
        return self


def _asked(labels: Sequence[str] | Mapping[str, str] | None) -> dict[str, str] | None:
    """From label to what is asked: for a list the labels themselves."""
    if labels is None:
        return None
    return dict(labels) if isinstance(labels, Mapping) else {label: label for label in labels}


def _has_sentences(doc: Doc) -> bool:
    return bool(doc.has_annotation("SENT_START"))
