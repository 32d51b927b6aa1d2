"""The factory `nuner`: an entity recogniser trained by `spacy train` on a NuNER encoder."""

# No postponed annotations here: spaCy validates the arguments of `initialize` by them.

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, cast

import numpy as np
from spacy.language import Language
from spacy.pipeline import TrainablePipe
from spacy.tokens import Doc, Span, SpanGroup
from spacy.training import Example, validate_examples, validate_get_examples
from spacy.vocab import Vocab
from thinc.api import Config, Model, Optimizer, to_numpy
from thinc.types import Floats2d

from spacy_universalner import scores as span_scores
from spacy_universalner.alignment import blocked_tokens
from spacy_universalner.forks import make_forks_safe
from spacy_universalner.nuner import viterbi
from spacy_universalner.nuner.entities import find_entities
from spacy_universalner.nuner.loss import MISSING, cross_entropy, gold_classes, weigh_classes

DEFAULT_CONFIG_STR = """
[nuner]
spans_key = "nuner"
threshold = 0.0
overwrite_ents = false
label_smoothing = 0.0

[nuner.class_weights]

[nuner.model]
@architectures = "spacy-universalner.NuNERTokenClassifier.v1"
head = "linear"
hidden_size = 128
dropout = 0.1
scheme = "bio"

[nuner.model.tok2vec]
@architectures = "spacy-universalner.NuNEREncoder.v1"
name = "numind/NuNER-v2.0"
revision = "main"
layers = [-1]
freeze = "none"
precision = "float32"

[nuner.scorer]
@scorers = "spacy-universalner.EntityScorer.v1"
"""

# Words whose vectors are held at a time: what a stream of long documents may take of memory.
PREDICT_WORDS = 50_000


@Language.factory(
    "nuner",
    assigns=["doc.ents", "doc.spans", "token.ent_iob", "token.ent_type"],
    default_config=Config().from_str(DEFAULT_CONFIG_STR)["nuner"],
    default_score_weights={
        "ents_f": 1.0,
        "ents_p": 0.0,
        "ents_r": 0.0,
        "ents_per_type": None,
    },
)
def make_nuner(
    nlp: Language,
    name: str,
    model: Model[list[Doc], list[Floats2d]],
    spans_key: str,
    threshold: float,
    overwrite_ents: bool,
    label_smoothing: float,
    class_weights: dict[str, float],
    scorer: Callable[..., dict[str, Any]] | None,
) -> "NuNER":
    """Create the component. The weights are loaded by `initialize` or from disk.

    nlp (Language): The pipeline.
    name (str): The component's name in it.
    model (Model[list[Doc], list[Floats2d]]): `spacy-universalner.NuNERTokenClassifier.v1`.
    spans_key (str): Where all entities go, with their scores: `doc.spans[key].attrs["scores"]`.
    threshold (float): Entities with a lower score do not go into `doc.ents`.
    overwrite_ents (bool): Whether `doc.ents` of earlier components are removed. If not, an entity
        that overlaps with one of them is in `doc.spans` only.
    label_smoothing (float): Share of the target probability spread evenly over all classes.
    class_weights (dict[str, float]): Weight of a label's tokens in the loss, 1.0 where none is
        given; "O" for tokens outside of entities.
    scorer (Callable | None): The scoring method.
    RETURNS (NuNER): The component.
    """
    make_forks_safe()  # here too: a shared transformer is none of this package's encoders
    return NuNER(
        nlp.vocab,
        model,
        name,
        spans_key=spans_key,
        threshold=threshold,
        overwrite_ents=overwrite_ents,
        label_smoothing=label_smoothing,
        class_weights=class_weights,
        scorer=scorer,
    )


class NuNER(TrainablePipe):
    """Recognise entities of the types in the training data with a token classifier."""

    def __init__(
        self,
        vocab: Vocab,
        model: Model[list[Doc], list[Floats2d]],
        name: str = "nuner",
        *,
        spans_key: str = "nuner",
        threshold: float = 0.0,
        overwrite_ents: bool = False,
        label_smoothing: float = 0.0,
        class_weights: dict[str, float] | None = None,
        scorer: Callable[..., dict[str, Any]] | None = None,
    ) -> None:
        """See `make_nuner` for the arguments.

        RAISES (ValueError): A number is out of its range.
        """
        if not 0 <= threshold <= 1:
            raise ValueError(f"'{name}': threshold = {threshold}: expected 0 to 1.")
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                f"'{name}': label_smoothing = {label_smoothing}: expected 0 to less than 1."
            )
        for label, weight in (class_weights or {}).items():
            if weight < 0:
                raise ValueError(
                    f"'{name}': class_weights has {weight} for '{label}': expected at least 0."
                )
        span_scores.register()
        self.vocab = vocab
        self.model = model
        self.name = name
        self.spans_key = spans_key
        self.threshold = threshold
        self.overwrite_ents = overwrite_ents
        self.label_smoothing = label_smoothing
        self.class_weights = dict(class_weights or {})
        self.scorer = scorer
        # What training learns about the labels; all else comes from the config.
        self.cfg: dict[str, Any] = {"labels": []}
        self._rehearsal_model: Model[list[Doc], list[Floats2d]] | None = None
        self._unknown: set[str] = set()

    @property
    def labels(self) -> tuple[str, ...]:
        """The entity types, in the order in which their classes stand."""
        return tuple(self.cfg["labels"])

    @property
    def label_data(self) -> list[str]:
        """What `spacy init labels` writes and `initialize` takes."""
        return list(self.labels)

    @property
    def scheme(self) -> viterbi.Scheme:
        return self.model.attrs["scheme"]

    def add_label(self, label: str) -> int:
        """Add an entity type. A trained model gets new classes that have yet to be learned.

        label (str): The type.
        RETURNS (int): 0 if it is there already, otherwise 1.
        """
        if not isinstance(label, str):
            raise ValueError(f"The label {label!r} is not a string.")
        if label in self.labels:
            return 0
        self.cfg["labels"].append(label)
        self.vocab.strings.add(label)
        self.set_output(self._n_classes)
        return 1

    @property
    def _n_classes(self) -> int:
        return viterbi.n_classes(len(self.labels), self.scheme)

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        """Load the pretrained weights and make a new head for the labels.

        get_examples (Callable[[], Iterable[Example]]): Gives a representative sample.
        nlp (Language | None): The pipeline.
        labels (Sequence[str] | None): The labels, as `spacy init labels` saves them; those of the
            sample if none are given.
        """
        validate_get_examples(get_examples, "NuNER.initialize")
        if labels is None:
            labels = sorted({ent.label_ for eg in get_examples() for ent in eg.reference.ents})
        for label in labels:
            self.add_label(label)
        self._require_labels()
        docs = [eg.predicted for eg in islice(get_examples(), 10)]
        if self.model.get_ref("output_layer").has_dim("nO") is None:
            self.model.get_ref("output_layer").set_dim("nO", self._n_classes)
        self.model.initialize(X=docs)

    def predict(self, docs: Iterable[Doc]) -> list[viterbi.Floats]:
        """Compute the classes' log-probabilities, without changing the documents.

        docs (Iterable[Doc]): The documents.
        RETURNS (list[Floats]): For each document an array of shape (n_tokens, n_classes).
        """
        scores: list[viterbi.Floats] = []
        for batch in _by_words(docs):
            if any(map(len, batch)):
                scores += _log_softmax(self.model.predict(batch))
            else:  # a shared transformer has nothing at all for them
                scores += [np.zeros((0, self._n_classes), dtype="float32") for _ in batch]
        return scores

    def set_annotations(self, docs: Iterable[Doc], scores: list[viterbi.Floats]) -> None:
        """Set `doc.spans` and `doc.ents`.

        An entity's score is the geometric mean of the probabilities of its tokens' classes, so
        that one threshold serves short entities and long ones.

        docs (Iterable[Doc]): The documents.
        scores (list[Floats]): What `predict` gave for them.
        """
        labels = self.labels
        for doc, found in find_entities(docs, scores, self.scheme):
            spans = [Span(doc, start, end, label=labels[label]) for start, end, label, _ in found]
            confidences = [confidence for *_, confidence in found]
            for span, confidence in zip(spans, confidences, strict=True):
                span_scores.set_score(span, confidence)
            doc.spans[self.spans_key] = SpanGroup(
                doc,
                name=self.spans_key,
                attrs={"scores": np.asarray(confidences, dtype="float32")},
                spans=spans,
            )
            earlier = () if self.overwrite_ents else doc.ents
            blocked = () if self.overwrite_ents else blocked_tokens(doc)
            covered = {i for ent in (*earlier, *blocked) for i in range(ent.start, ent.end)}
            entities = (
                span
                for span, confidence in zip(spans, confidences, strict=True)
                if confidence >= self.threshold and covered.isdisjoint(range(span.start, span.end))
            )
            doc.set_ents([*earlier, *entities], blocked=[*blocked])

    def update(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optimizer | None = None,
        losses: dict[str, float] | None = None,
    ) -> dict[str, float]:
        """Learn from a batch of examples.

        examples (Iterable[Example]): The batch.
        drop (float): Not used: the dropout rates are the architectures'.
        sgd (Optimizer | None): If given, the weights are updated at once.
        losses (dict[str, float] | None): Where the loss is added under the component's name.
        RETURNS (dict[str, float]): The losses.
        """
        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)
        examples = list(examples)
        validate_examples(examples, "NuNER.update")
        if not any(len(eg.predicted) for eg in examples):
            return losses
        scores, backprop = self.model.begin_update([eg.predicted for eg in examples])
        loss, d_scores = self.get_loss(examples, scores)
        backprop(d_scores)
        if sgd:
            self.finish_update(sgd)
        losses[self.name] += loss
        return losses

    def rehearse(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optimizer | None = None,
        losses: dict[str, float] | None = None,
    ) -> dict[str, float]:
        """Learn to predict what the model did when `nlp.resume_training` was called.

        examples (Iterable[Example]): A batch; its annotation is not looked at.
        drop (float): Not used: the dropout rates are the architectures'.
        sgd (Optimizer | None): If given, the weights are updated at once.
        losses (dict[str, float] | None): Where the loss is added under the component's name.
        RETURNS (dict[str, float]): The losses.
        RAISES (ValueError): The encoder is a shared one, or was when training was resumed.
        """
        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)
        examples = list(examples)
        validate_examples(examples, "NuNER.rehearse")
        docs = [eg.predicted for eg in examples]
        if self._rehearsal_model is None or not any(map(len, docs)):
            return losses
        # The copy to rehearse has the listeners of the time when it was made.
        models = (self.model, self._rehearsal_model)
        if any(node.name.endswith("-listener") for model in models for node in model.walk()):
            raise ValueError(
                f"'{self.name}' cannot rehearse on a shared encoder, which `nlp.rehearse` does not "
                f'run. Give it one of its own: nlp.replace_listeners("transformer", "{self.name}", '
                '["model.tok2vec"]), and then nlp.resume_training().'
            )
        scores, backprop = self.model.begin_update(docs)
        ops = self.model.ops
        teacher = ops.softmax(ops.flatten(self._rehearsal_model.predict(docs)))
        # Labels that came after it are not its.
        targets = ops.alloc2f(len(teacher), self._n_classes)
        targets[:, : teacher.shape[1]] = teacher
        weights = np.ones(len(teacher), dtype="float32")
        loss, d_scores = cross_entropy(ops, scores, targets, weights)
        backprop(d_scores)
        if sgd:
            self.finish_update(sgd)
        losses[self.name] += loss
        return losses

    def get_loss(
        self, examples: Iterable[Example], scores: list[Floats2d]
    ) -> tuple[float, list[Floats2d]]:
        """Cross-entropy, summed over the tokens whose annotation is known.

        A sum, as in spaCy's other components: on a shared transformer their gradients are of one
        size.

        examples (Iterable[Example]): The batch.
        scores (list[Floats2d]): The model's logits for it.
        RETURNS (tuple[float, list[Floats2d]]): The loss and its gradient.
        """
        validate_examples(examples, "NuNER.get_loss")
        found = [gold_classes(eg, self.labels, self.scheme) for eg in examples]
        for label in sorted({label for _, unknown in found for label in unknown}):
            self._warn_of(label)
        classes = np.concatenate([each for each, _ in found])
        known = classes != MISSING
        targets = np.zeros((len(classes), self._n_classes), dtype="float32")
        targets[known] = self.label_smoothing / self._n_classes
        targets[known, classes[known]] += 1.0 - self.label_smoothing
        weights = weigh_classes(self.class_weights, self.labels, self.scheme)[classes]
        weights = np.where(known, weights, np.float32(0.0))
        ops = self.model.ops
        return cross_entropy(ops, scores, ops.asarray2f(cast(Floats2d, targets)), weights)

    def score(self, examples: Iterable[Example], **kwargs: Any) -> dict[str, Any]:
        """Score predictions with the configured scorer, the span group included.

        examples (Iterable[Example]): Predicted and gold documents.
        **kwargs (Any): Passed on to the scorer.
        RETURNS (dict[str, Any]): The scores, none without a scorer.
        """
        if self.scorer is None:
            return {}
        return self.scorer(examples, **{"spans_key": self.spans_key, **kwargs})

    def _warn_of(self, label: str) -> None:
        if label not in self._unknown:
            self._unknown.add(label)
            warnings.warn(
                f"'{self.name}': the label '{label}' of the training data is none of its labels, "
                f"{', '.join(self.labels)}; its tokens are taken for not annotated. To learn it, "
                f'call `nlp.get_pipe("{self.name}").add_label("{label}")` before training. For '
                f"`spacy train` name it in the labels of [initialize.components.{self.name}] or, "
                "where the component has a `source` and so is not initialized, make that call in "
                "a callback, [initialize.before_init].",
                stacklevel=2,
            )


def _by_words(docs: Iterable[Doc]) -> Iterator[list[Doc]]:
    """Batches of documents with at most `PREDICT_WORDS` tokens, or of one document."""
    batch: list[Doc] = []
    n_words = 0
    for doc in docs:
        if batch and n_words + len(doc) > PREDICT_WORDS:
            yield batch
            batch, n_words = [], 0
        batch.append(doc)
        n_words += len(doc)
    if batch:
        yield batch


def _log_softmax(scores: list[Floats2d]) -> list[viterbi.Floats]:
    lengths = [len(doc_scores) for doc_scores in scores]
    logits = np.concatenate([to_numpy(doc_scores) for doc_scores in scores])
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return np.split(logits, np.cumsum(lengths)[:-1])
