from __future__ import annotations

from collections import Counter

import pytest

from spacy_universalner.data.conversations import TextSplit, answers_by_type, build_conversations
from spacy_universalner.data.negatives import NegativeSampler
from spacy_universalner.ty import Mention, Passage, Question

ADA = Passage(
    "1",
    "Ada met Ada and Bob in Rome.",
    (
        Mention(16, 19, "person"),
        Mention(8, 11, "person"),
        Mention(0, 3, "person"),
        Mention(23, 27, "city"),
        Mention(23, 27, "capital"),
    ),
)
SAMPLER = NegativeSampler({"person": 5, "city": 3, "capital": 1, "drug": 2, "gene": 2})


def test_answers_are_distinct_and_in_the_order_of_the_text() -> None:
    assert answers_by_type(ADA) == {
        "person": ("Ada", "Bob"),
        "capital": ("Rome",),
        "city": ("Rome",),
    }


def test_each_type_is_asked_once_with_as_many_negatives_as_there_are() -> None:
    (conversation,) = build_conversations([ADA], SAMPLER, dataset="d")
    assert (conversation.id, conversation.text, conversation.dataset) == ("1", ADA.text, "d")
    assert sorted(conversation.questions, key=lambda question: question.type) == [
        Question("capital", ("Rome",)),
        Question("city", ("Rome",)),
        Question("drug"),
        Question("gene"),
        Question("person", ("Ada", "Bob")),
    ]


@pytest.mark.parametrize("ratio, negatives", [(0.0, 0), (0.4, 1), (0.5, 2), (1.0, 2)])
def test_the_number_of_negatives(ratio: float, negatives: int) -> None:
    (conversation,) = build_conversations([ADA], SAMPLER, negatives_per_positive=ratio)
    assert sum(not question.answers for question in conversation.questions) == negatives


def test_a_passage_without_entities_is_asked_only_in_a_closed_set() -> None:
    empty = Passage("2", "Hm.")
    assert list(build_conversations([empty], SAMPLER)) == []
    (conversation,) = build_conversations([empty], NegativeSampler({"a": 1, "b": 1}, "all"))
    assert {question.type for question in conversation.questions} == {"a", "b"}


def test_order_and_negatives_depend_on_seed_and_passage_alone() -> None:
    other = Passage("3", "Eve.", (Mention(0, 3, "person"),))
    first = list(build_conversations([ADA, other], SAMPLER, seed=1))
    assert list(build_conversations([other, ADA], SAMPLER, seed=1)) == first[::-1]
    orders = {next(build_conversations([ADA], SAMPLER, seed=seed)).questions for seed in range(20)}
    assert len(orders) > 10
    assert len({questions[0].type for questions in orders}) == 5  # each has stood first


def test_splits_have_their_shares_and_share_no_text() -> None:
    texts = [f"text {i}" for i in range(5000)]
    split = TextSplit(held_out=0.1, dev=0.02, seed=0)
    places = Counter(split(text) for text in texts)
    assert places == Counter({"train": 4450, "heldout": 454, "dev": 96})
    again = TextSplit(held_out=0.1, dev=0.02, seed=0)
    assert [again(text) for text in texts] == [split(text) for text in texts]
    assert Counter(TextSplit(held_out=0.1, dev=0.02, seed=1)(text) for text in texts) != places


def test_texts_of_another_source_are_never_held_out_nor_leak() -> None:
    split = TextSplit(held_out=0.5, dev=0.1)
    texts = [f"text {i}" for i in range(200)]
    passages = {text: split(text) for text in texts[:100]}
    sentences = {text: split(text, may_hold_out=False) for text in texts}
    assert set(sentences.values()) == {"train", "dev", None}
    for text, place in passages.items():
        assert sentences[text] == (None if place == "heldout" else place)
    assert None not in {sentences[text] for text in texts[100:]}
