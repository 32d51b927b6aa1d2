"""The factory `nuner`: an entity recogniser trained by `spacy train` on a NuNER encoder."""

# No postponed annotations here: spaCy validates the arguments of `initialize` by them.

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, cast

import numpy as np
from spacy.attrs import IS_SPACE
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
MISSING = -1
# The log-probability of what cannot be.
NEVER = -1e9


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
    make_forks_safe()
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
        """See `make_nuner` for the arguments."""
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
        return [
            scores
            for batch in _by_words(docs)
            for scores in _log_softmax(self.model.predict(batch))
        ]

    def set_annotations(self, docs: Iterable[Doc], scores: list[viterbi.Floats]) -> None:
        """Set `doc.spans` and `doc.ents`.

        White space is no word: an entity may go on behind a line break or a double space, but not
        behind a blank line, and neither starts nor ends with any.

        An entity's score is the geometric mean of the probabilities of its tokens' classes, so
        that one threshold serves short entities and long ones.

        docs (Iterable[Doc]): The documents.
        scores (list[Floats]): What `predict` gave for them.
        """
        labels = [self.vocab.strings.add(label) for label in self.labels]
        docs = list(docs)
        at_words = [_at_words(doc, each) for doc, each in zip(docs, scores, strict=True)]
        paths = viterbi.decode([log_probs for _, log_probs in at_words], self.scheme)
        for doc, (words, log_probs), path in zip(docs, at_words, paths, strict=True):
            found = list(viterbi.entities(path, self.scheme))
            spans = [
                Span(doc, words[start], words[end - 1] + 1, label=labels[label])
                for start, end, label in found
            ]
            confidences = _confidences(log_probs, path, found)
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
        """
        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)
        examples = list(examples)
        validate_examples(examples, "NuNER.rehearse")
        docs = [eg.predicted for eg in examples]
        if self._rehearsal_model is None or not any(map(len, docs)):
            return losses
        scores, backprop = self.model.begin_update(docs)
        ops = self.model.ops
        teacher = ops.softmax(ops.flatten(self._rehearsal_model.predict(docs)))
        # Labels that came after it are not its.
        targets = ops.alloc2f(len(teacher), self._n_classes)
        targets[:, : teacher.shape[1]] = teacher
        weights = np.ones(len(teacher), dtype="float32")
        loss, d_scores = self._cross_entropy(scores, targets, weights)
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
        classes = np.concatenate([self._gold_classes(eg) for eg in examples])
        known = classes != MISSING
        targets = np.zeros((len(classes), self._n_classes), dtype="float32")
        targets[known] = self.label_smoothing / self._n_classes
        targets[known, classes[known]] += 1.0 - self.label_smoothing
        weights = np.where(known, self._class_weights()[classes], np.float32(0.0))
        return self._cross_entropy(
            scores, self.model.ops.asarray2f(cast(Floats2d, targets)), weights
        )

    def score(self, examples: Iterable[Example], **kwargs: Any) -> dict[str, Any]:
        """Score predictions with the configured scorer, the span group included.

        examples (Iterable[Example]): Predicted and gold documents.
        **kwargs (Any): Passed on to the scorer.
        RETURNS (dict[str, Any]): The scores, none without a scorer.
        """
        if self.scorer is None:
            return {}
        return self.scorer(examples, **{"spans_key": self.spans_key, **kwargs})

    def _gold_classes(self, example: Example) -> viterbi.Ints:
        """The class of each token, MISSING where it is not annotated and at white space."""
        index = {label: i for i, label in enumerate(self.labels)}
        classes = []
        for token, tag in zip(example.predicted, example.get_aligned_ner(), strict=True):
            if tag == "O" and not token.is_space:
                classes.append(viterbi.OUTSIDE)
                continue
            move, _, label = (tag or "-").partition("-")
            if label and label not in index:
                self._warn_of(label)
            if label not in index or token.is_space:
                classes.append(MISSING)
            elif move in "BU":
                classes.append(viterbi.begin_class(index[label], self.scheme))
            else:
                classes.append(viterbi.inside_class(index[label], self.scheme))
        return np.asarray(classes, dtype=np.int64)

    def _warn_of(self, label: str) -> None:
        if label not in self._unknown:
            self._unknown.add(label)
            warnings.warn(
                f"'{self.name}': the label '{label}' of the training data is none of its labels, "
                f"{', '.join(self.labels)}; its tokens are taken for not annotated. To learn it, "
                f'call `add_label("{label}")`, or name it in the labels of [initialize].',
                stacklevel=2,
            )

    def _class_weights(self) -> viterbi.Floats:
        """The weight of each class in the loss."""
        unknown = self.class_weights.keys() - {"O", *self.labels}
        if unknown:
            raise ValueError(
                f"class_weights names {sorted(unknown)}, expected 'O' or one of the labels: "
                f"{', '.join(self.labels)}."
            )
        weights = np.ones(self._n_classes, dtype="float32")
        weights[viterbi.OUTSIDE] = self.class_weights.get("O", 1.0)
        for i, label in enumerate(self.labels):
            weights[viterbi.begin_class(i, self.scheme)] = self.class_weights.get(label, 1.0)
            weights[viterbi.inside_class(i, self.scheme)] = self.class_weights.get(label, 1.0)
        return weights

    def _cross_entropy(
        self, scores: list[Floats2d], targets: Floats2d, weights: viterbi.Floats
    ) -> tuple[float, list[Floats2d]]:
        """Cross-entropy of logits and target probabilities, as a weighted sum over tokens."""
        ops = self.model.ops
        probs = ops.softmax(ops.flatten(scores))
        factors = ops.asarray2f(weights.reshape(-1, 1))  # type: ignore[arg-type]
        loss = float(-(targets * ops.xp.log(probs + 1e-12) * factors).sum())
        gradient = (probs - targets) * factors
        return loss, ops.unflatten(gradient, ops.asarray1i([len(s) for s in scores]))


def _at_words(doc: Doc, log_probs: viterbi.Floats) -> tuple[viterbi.Ints, viterbi.Floats]:
    """Leave out white space, of which the encoder has read nothing.

    RETURNS (tuple[Ints, Floats]): The indices of the other tokens, and their log-probabilities. A
        blank line stays, outside of any entity, to part what stands before it from what follows.
    """
    space = doc.to_array([IS_SPACE]).astype(bool).reshape(-1)
    if space.any():
        log_probs = log_probs.copy()
        for i in np.flatnonzero(space):
            if doc[int(i)].text.count("\n") > 1:
                space[i] = False
                log_probs[i] = NEVER
                log_probs[i, viterbi.OUTSIDE] = 0.0
    words = np.flatnonzero(~space)
    return words, log_probs[words]


def _confidences(
    log_probs: viterbi.Floats, path: viterbi.Ints, entities: Sequence[tuple[int, int, int]]
) -> list[float]:
    """The geometric mean of the probabilities along the path, for each entity."""
    taken = log_probs[np.arange(len(path)), path].astype(np.float64)
    sums = np.concatenate(([0.0], taken.cumsum()))
    bounds = np.asarray([entity[:2] for entity in entities], dtype=np.int64).reshape(-1, 2)
    starts, ends = bounds.T
    means: list[float] = np.exp((sums[ends] - sums[starts]) / (ends - starts)).tolist()
    return means


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
