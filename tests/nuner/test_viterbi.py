"""Tag schemes and decoding, against enumeration of all sequences."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacy_universalner.nuner import viterbi

OUT, B0, I0, B1, I1 = range(5)


def allowed(path):
    return all(
        tag in (OUT, B0, B1) or previous in (tag, tag - 1)
        for previous, tag in zip((OUT, *path), path, strict=False)
    )


def test_classes_of_new_labels_are_appended():
    assert [viterbi.n_classes(n, "bio") for n in (0, 1, 2)] == [1, 3, 5]
    assert [viterbi.n_classes(n, "io") for n in (0, 1, 2)] == [1, 2, 3]
    assert [viterbi.begin_class(1, "bio"), viterbi.inside_class(1, "bio")] == [B1, I1]
    assert [viterbi.begin_class(1, "io"), viterbi.inside_class(1, "io")] == [2, 2]


@given(st.lists(st.integers(0, 4), max_size=6))
def test_validity_is_that_of_each_transition(path):
    assert viterbi.is_valid(np.asarray(path, dtype=np.int64)) == allowed(path)


@given(
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    seed=st.integers(0, 2**32 - 1),
)
def test_viterbi_finds_the_best_allowed_sequence_of_each_document(lengths, seed):
    numbers = np.random.default_rng(seed)
    documents = [numbers.normal(size=(length, 5)).astype("float32") for length in lengths]
    best = [
        max(
            filter(allowed, product(range(5), repeat=len(scores))),
            key=lambda path, scores=scores: scores[np.arange(len(scores)), path].sum(),
        )
        for scores in documents
    ]
    assert [tuple(path) for path in viterbi.viterbi(documents)] == best
    assert [tuple(path) for path in viterbi.decode(documents, "bio")] == best


def test_an_inside_class_that_continues_nothing_is_corrected():
    scores = np.log(
        np.asarray([[0.5, 0.4, 0.04, 0.03, 0.03], [0.1, 0.1, 0.6, 0.1, 0.1]], dtype="float32")
    )
    # Outside, inside is greedy; of the allowed ones begin, inside (0.4 * 0.6) is better than
    # outside twice (0.5 * 0.1).
    assert list(viterbi.decode([scores], "bio")[0]) == [B0, I0]


def test_io_takes_the_best_class_of_each_token():
    scores = np.asarray([[0, 1, 2], [2, 1, 0]], dtype="float32")
    assert list(viterbi.decode([scores], "io")[0]) == [2, 0]
    assert [len(path) for path in viterbi.decode([scores[:0]], "io")] == [0]


@pytest.mark.parametrize(
    ("path", "scheme", "expected"),
    [
        ([], "bio", []),
        ([OUT, B0, I0, OUT, B1], "bio", [(1, 3, 0), (4, 5, 1)]),
        ([B0, B0, I0, B1], "bio", [(0, 1, 0), (1, 3, 0), (3, 4, 1)]),
        ([1, 1, 2, 0, 2], "io", [(0, 2, 0), (2, 3, 1), (4, 5, 1)]),
    ],
)
def test_entities_of_a_path(path, scheme, expected):
    assert list(viterbi.entities(np.asarray(path, dtype=np.int64), scheme)) == expected
