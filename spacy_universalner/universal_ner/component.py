"""The pipeline component `universal_ner`: asks a language model for entities, type by type."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from inspect import getattr_static
from itertools import chain, islice
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
from tqdm import tqdm

from spacy_universalner import scores
from spacy_universalner.data.annotation.stored import StoredModel
from spacy_universalner.data.store import ResponseStore
from spacy_universalner.forks import make_forks_safe
from spacy_universalner.ty import (
    Answer,
    AnsweringModel,
    LanguageModel,
    ModelWithIdentity,
    Prompt,
)
from spacy_universalner.universal_ner.annotator import Annotator
from spacy_universalner.universal_ner.asking import ask, ask_or_recall
from spacy_universalner.universal_ner.planning import Planner, Task
from spacy_universalner.universal_ner.questions import Questions, asked_for, survives_config
from spacy_universalner.universal_ner.serialization import (
    ModelWithWeights,
    has_local_weights,
    pack,
    save,
    unpack,
)

DEFAULT_MODEL_CONFIG = {
    "@llm_models": "spacy-universalner.HF.v1",
    "name": "Universal-NER/UniNER-7B-type",
}
DEFAULT_SCORER_CONFIG = {"@scorers": "spacy-universalner.EntityScorer.v1"}
# Texts of more windows than this have a progress bar of their own.
LONG = 20


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
        context. None for the model's own setting, 256 for those of this package. It is set on the
        model: this package's heed it, spacy-llm's have settings of their own.
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
    RAISES (ValueError): A setting is out of its range, `label_thresholds` has a label that is not
        asked for, or the model cannot be used with `cache`.
    """
    scores.register()
    make_forks_safe()
    return UniversalNER(
        name,
        cast(LanguageModel, model),
        Questions(asked_for(labels), template, dataset),
        Annotator(
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
        labels_in_config=not isinstance(labels, dict) or survives_config(labels),
    )


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
        questions: Questions,
        annotator: Annotator,
        *,
        max_new_tokens: int | None = None,
        window: int = 512,
        stride: int = 64,
        cache: ResponseStore | None = None,
        on_error: Literal["raise", "record"] = "raise",
        save_io: bool = False,
        scorer: Callable[..., Any] | None = None,
        labels_in_config: bool = True,
    ) -> None:
        """Initialize the component.

        name (str): The instance name.
        model (LanguageModel): The model.
        questions (Questions): What to ask.
        annotator (Annotator): Where the answers go. For the others see `make_universal_ner`.
        labels_in_config (bool): Whether the pipeline's config can hold the labels. If not, they are
            saved with the component.
        RAISES (ValueError): See `make_universal_ner`.
        """
        if max_new_tokens is not None and max_new_tokens < 1:
            raise ValueError(f"'{name}': max_new_tokens = {max_new_tokens}: expected at least 1.")
        unknown = set(annotator.label_thresholds) - set(questions.labels or ())
        if unknown and questions.labels is not None:
            raise ValueError(
                f"'{name}': label_thresholds has {', '.join(map(repr, sorted(unknown)))}, but the "
                f"labels are {', '.join(map(repr, questions.labels))}."
            )
        for label, limit in annotator.label_thresholds.items():
            if not survives_config({label: limit}):
                raise ValueError(
                    f"'{name}': label_thresholds: a config cannot hold the key '{label}'. Give the "
                    "label another name, without ':' and '=' and with a letter first."
                )
        # Found without being computed, here and below: it may read all weights.
        if isinstance(model, StoredModel) and getattr_static(model.model, "identity", None):
            raise ValueError(
                f"'{name}': spacy-universalner.Stored.v1 around {type(model.model).__name__} would "
                "hide its scores, its windows and its weights. Name that model itself, and set "
                "`cache` to a file of its answers."
            )
        if cache is not None and getattr_static(model, "identity", None) is None:
            raise ValueError(
                f"'{name}': a cache must know which model and decoding its answers belong to, and "
                f"{type(model).__name__} does not say. Set cache = null, or wrap the model in "
                "spacy-universalner.Stored.v1 with an `identity`."
            )
        self.name = name
        self.model = model
        self.questions = questions
        self.annotator = annotator
        self.planner = Planner(name, model, questions, window, stride)
        self.cache = cache
        self.on_error = on_error
        self.save_io = save_io
        self.scorer = scorer
        self.labels_in_config = labels_in_config
        self._initial = self.cfg
        if max_new_tokens is not None:
            model.max_new_tokens = max_new_tokens  # type: ignore[attr-defined]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in order; empty in discovery."""
        return tuple(self.questions.labels or ())

    @property
    def label_data(self) -> dict[str, str] | None:
        """From label to what is asked, as `initialize` takes it."""
        return self.questions.labels

    @property
    def cfg(self) -> dict[str, Any]:
        """A copy of the settings that may be changed after construction, by setting it anew."""
        labels = self.questions.labels
        return {
            "labels": None if labels is None else dict(labels),
            "threshold": self.annotator.threshold,
            "label_thresholds": dict(self.annotator.label_thresholds),
            "spans_key": self.annotator.spans_key,
        }

    @cfg.setter
    def cfg(self, cfg: dict[str, Any]) -> None:
        self.questions.labels = cfg["labels"]
        self.annotator.threshold = cfg["threshold"]
        self.annotator.label_thresholds = cfg["label_thresholds"]
        self.annotator.spans_key = cfg["spans_key"]

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
            self.questions.labels = asked_for(labels)

    def __call__(self, doc: Doc) -> Doc:
        """Annotate a document.

        doc (Doc): The document; modified in place.
        RETURNS (Doc): The same.
        """
        for _ in self._annotate([doc]):
            pass
        return doc

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Annotate a stream of documents.

        stream (Iterable[Doc]): The documents; modified in place.
        batch_size (int): Documents to read ahead, so that the model can batch over them.
        YIELDS (Doc): The documents, in order, each as soon as it is answered.
        """
        for docs in util.minibatch(stream, batch_size):
            yield from self._annotate(docs)

    def _annotate(self, docs: Iterable[Doc]) -> Iterator[Doc]:
        handle_error = self.get_error_handler()
        tasks = []
        for doc in docs:
            try:
                tasks.append(self.planner(doc))
            except Exception as error:
                handle_error(self.name, self, [doc], error)
        for task, answers in zip(tasks, self._answers(tasks), strict=True):
            try:
                self._set_annotations(task, answers)
            except Exception as error:
                handle_error(self.name, self, [task.doc], error)
            else:
                yield task.doc

    def _answers(self, tasks: Sequence[Task]) -> Iterator[list[list[Answer]] | Exception]:
        """Ask about all documents together; if that fails, about each of the rest alone, so that
        one that cannot be answered does not take the others with it."""
        groups = [prompts for task in tasks for prompts in task.prompts]
        long = any(len(task.windows) > LONG for task in tasks)
        settings = {"desc": self.name, "total": len(groups), "unit": "window", "leave": False}
        # tqdm's None is for a bar that shows on terminals only
        with tqdm(self._ask(groups), **settings, disable=None if long else True) as bar:
            replies = iter(bar)
            for i, task in enumerate(tasks):
                try:
                    answers = list(islice(replies, len(task.windows)))
                except Exception as error:
                    if len(tasks) == 1:
                        yield error
                    else:
                        yield from chain.from_iterable(self._answers([each]) for each in tasks[i:])
                    return
                yield answers

    def _ask(self, groups: Sequence[Sequence[Prompt]]) -> Iterator[list[Answer]]:
        if self.cache is None:
            yield from ask(self.model, groups)
        else:
            identity = cast(ModelWithIdentity, self.model).identity
            yield from ask_or_recall(self.model, groups, self.cache, identity)

    def _set_annotations(self, task: Task, answers: list[list[Answer]] | Exception) -> None:
        if isinstance(answers, Exception):
            # A plain spacy-llm model has no other way to say that a request failed.
            if self.on_error == "raise" or isinstance(self.model, AnsweringModel):
                raise answers
            failure = Answer("", error=f"{type(answers).__name__}: {answers}")
            answers = [[failure] * len(prompts) for prompts in task.prompts]
        errors = [answer.error for group in answers for answer in group if answer.error]
        if errors and self.on_error == "raise":
            raise RuntimeError(
                f"'{self.name}': no answer to {len(errors)} of {sum(map(len, answers))} questions "
                f'about a text. The first error: {errors[0]}\nSet on_error = "record" to go on '
                "with what was answered."
            )
        record = self.annotator(task.doc, task.windows, self.questions, answers)
        if self.save_io:
            record["io"] = [
                {"prompt": str(prompt), "answer": answer.text}
                for prompts, group in zip(task.prompts, answers, strict=True)
                for prompt, answer in zip(prompts, group, strict=True)
            ]
        task.doc.user_data[self.name] = record

    def _changes(self) -> dict[str, Any]:
        """What was changed since construction: only that is saved, so that whoever loads the
        pipeline can set the rest anew in its config."""
        changed = {key: value for key, value in self.cfg.items() if value != self._initial[key]}
        # Dictionaries are equal in any order, but labels may have one (conflict = "label_order").
        if list(self.questions.labels or ()) != list(self._initial["labels"] or ()):
            changed["labels"] = self.cfg["labels"]
        if not self.labels_in_config:
            changed["labels"] = self.cfg["labels"]
        return changed

    def _change(self, changes: dict[str, Any]) -> None:
        self.cfg = self.cfg | changes

    def score(self, examples: Iterable[Example], **kwargs: Any) -> dict[str, Any]:
        """Score predictions with the configured scorer.

        examples (Iterable[Example]): Predicted and gold documents.
        kwargs (Any): Passed on to the scorer, with the name under which the answers are kept.
        RETURNS (dict[str, Any]): The scores, none without a scorer.
        """
        scores: dict[str, Any] = super().score(examples, **{"component": self.name, **kwargs})
        return scores

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
            "cfg": lambda data: self._change(srsly.json_loads(data))
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
            model = self.model
            serialize["model"] = lambda p: save(model, p)
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
            "cfg": lambda p: self._change(srsly.read_json(p))
        }
        if isinstance(self.model, ModelWithWeights):
            load = self.model.load_weights
            deserialize["model"] = lambda p: load(p) if p.exists() else None
        util.from_disk(path, deserialize, exclude)
        return self
