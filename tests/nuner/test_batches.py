"""Passages to batches: targets, lengths, concepts, shares of several processes."""

import random

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from spacy_universalner.nuner.batches import (
    Collator,
    Rows,
    TokenizedPassage,
    plan_batches,
    tokenize_passage,
)
from spacy_universalner.ty import Mention, Passage

TEXT = "Marie Curie won the Nobel Prize in Paris."
PASSAGE = Passage(
    "p1",
    TEXT,
    (
        Mention(0, 11, "person"),
        Mention(0, 11, "scientist"),
        Mention(20, 31, "award"),
        Mention(35, 40, "city"),
    ),
)


def test_every_token_of_a_mention_is_an_instance_of_its_concept(tiny_bert):
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    tokenized = tokenize_passage(PASSAGE, tokenizer, max_length=64)
    assert tokenized.ids == tokenizer(TEXT)["input_ids"]
    assert list(tokenized.concepts) == ["award", "city", "person", "scientist"]
    offsets = tokenizer(TEXT, return_offsets_mapping=True)["offset_mapping"]
    for concept, start, end in (("person", 0, 11), ("scientist", 0, 11), ("award", 20, 31)):
        places = [offsets[index] for index in tokenized.concepts[concept]]
        assert (places[0][0], places[-1][1]) == (start, end)
        assert "".join(TEXT[a:b] for a, b in places) == TEXT[start:end].replace(" ", "")
    assert tokenized.lost == 0


def test_mentions_beyond_the_length_limit_are_counted(tiny_bert):
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    length = len(tokenizer(TEXT[:34])["input_ids"])
    tokenized = tokenize_passage(PASSAGE, tokenizer, max_length=length)
    assert len(tokenized.ids) == length
    assert list(tokenized.concepts) == ["award", "person", "scientist"]
    assert tokenized.lost == 1


@given(st.lists(st.integers(1, 60), max_size=300), st.integers(1, 20), st.integers())
def test_an_epoch_holds_each_passage_once_in_batches_of_about_one_size(lengths, size, seed):
    batches = plan_batches(lengths, size, random.Random(seed))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    if batches:
        sizes = {len(batch) for batch in batches}
        assert max(sizes) <= size
        assert max(sizes) - min(sizes) <= 1
    assert batches == plan_batches(lengths, size, random.Random(seed))


def test_batches_hold_texts_of_similar_length():
    order = random.Random(0)
    lengths = [order.randint(5, 60) for _ in range(2000)]
    batches = plan_batches(lengths, 20, order)
    padded = sum(max(lengths[index] for index in batch) * len(batch) for batch in batches)
    assert padded < 1.06 * sum(lengths)
    assert plan_batches(lengths, 20, order) != batches


PASSAGES = [
    TokenizedPassage([2, 7, 8, 3], {"city": [1], "person": [1, 2]}),
    TokenizedPassage([2, 9, 3], {"city": [1]}),
    TokenizedPassage([2, 7, 8, 9, 3], {"company": [3]}),
]
CONCEPTS = {
    "city": torch.tensor([2, 10, 3]),
    "company": torch.tensor([2, 11, 12, 3]),
    "person": torch.tensor([2, 13, 14, 14, 3]),
    "unused": torch.tensor([2, 14, 3]),
}


def make_collator(**settings):
    texts = [torch.tensor(passage.ids) for passage in PASSAGES]
    return Collator(PASSAGES, texts, CONCEPTS, pad_id=0, **settings)


def dense(batch):
    """The target array that a batch stands for: real tokens x concepts."""
    array = torch.zeros(int(batch.texts.mask.sum()), sum(len(g.values) for g in batch.concepts))
    array[batch.tokens, batch.columns] = 1
    return array


def test_a_batch_is_asked_for_each_of_its_concepts_once():
    batch = make_collator()([0, 1, 2], random.Random(0))
    assert batch.texts.values.tolist() == [[2, 7, 8, 3, 0], [2, 9, 3, 0, 0], [2, 7, 8, 9, 3]]
    assert batch.texts.mask.tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert [group.values.tolist() for group in batch.concepts] == [
        [[2, 10, 3, 0], [2, 11, 12, 3]],
        [[2, 13, 14, 14, 3]],
    ]
    assert [group.mask.sum(1).tolist() for group in batch.concepts] == [[3, 4], [5]]
    expected = torch.zeros(12, 3)  # city, company, person
    expected[1, 0] = expected[5, 0] = 1
    expected[1, 2] = expected[2, 2] = 1
    expected[10, 1] = 1
    assert torch.equal(dense(batch), expected)


def test_processes_share_the_texts_of_a_batch_and_know_all_its_concepts():
    collator = make_collator()
    whole = dense(collator([0, 1, 2], random.Random(0)))
    first = collator([0, 1, 2], random.Random(0), rank=0, ranks=2)
    second = collator([0, 1, 2], random.Random(0), rank=1, ranks=2)
    assert first.texts.values.tolist() == [[2, 7, 8, 3, 0], [2, 7, 8, 9, 3]]
    assert second.texts.values.tolist() == [[2, 9, 3]]
    assert torch.equal(dense(first), torch.cat([whole[:4], whole[7:]]))
    assert torch.equal(dense(second), whole[4:7])


def test_concepts_of_a_batch_can_be_capped():
    collator = make_collator(max_concepts=2)
    kept = set()
    for seed in range(20):
        batch = collator([0, 1, 2], random.Random(seed))
        names = [
            tuple(row[mask.bool()].tolist())
            for group in batch.concepts
            for row, mask in zip(group.values, group.mask, strict=True)
        ]
        assert len(names) == 2
        kept.update(names)
        assert batch.columns.max() < 2
    assert len(kept) == 3


def test_synonyms_of_a_tokens_own_concepts_are_ignored():
    assert make_collator()([0, 1, 2], random.Random(0)).ignored is None
    # A token that has both concepts keeps both.
    directions = {"person": [0.6, 0.8], "city": [0.8, 0.6], "company": [-1.0, 0.0]}
    settings = {"directions": {name: torch.tensor(d) for name, d in directions.items()}}
    assert not len(make_collator(**settings, least=0.97)([0, 1, 2], random.Random(0)).ignored[0])
    settings["least"] = 0.95
    batch = make_collator(**settings)([0, 1, 2], random.Random(0))
    ignored = torch.zeros_like(dense(batch))
    ignored[batch.ignored] = 1
    expected = torch.zeros(12, 3)  # city, company, person
    expected[2, 0] = 1  # a person and no city
    expected[5, 2] = 1  # a city and no person
    assert torch.equal(ignored, expected)
    second = make_collator(**settings)([0, 1, 2], random.Random(0), rank=1, ranks=2)
    assert [each.tolist() for each in second.ignored] == [[1], [2]]
    # A concept that is not asked for keeps its synonyms from being negatives.
    capped = make_collator(**settings, max_concepts=1)
    found = {
        (len(batch.tokens), len(batch.ignored[0]))
        for batch in (capped([0, 1, 2], random.Random(seed)) for seed in range(20))
    }
    assert found == {(1, 0), (2, 1)}  # company; city or person, two tokens each


def test_hidden_states_are_padded_like_ids():
    rows = Rows.pad([torch.ones(2, 3), torch.ones(1, 3)], pad_id=0)
    assert rows.values.shape == (2, 2, 3)
    assert rows.mask.tolist() == [[1, 1], [1, 0]]
    assert rows.values[1, 1].tolist() == [0, 0, 0]
