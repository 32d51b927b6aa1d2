"""What a student's attention is led to while it learns to answer."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from spacy_universalner.universal_ner.finetune_data import encode_conversation
from spacy_universalner.universal_ner.finetune_guides import (
    collate_lookups,
    find_copies,
    find_lookups,
    guide_attention,
    word_tokens,
)
from spacy_universalner.universal_ner.finetune_settings import CopySettings
from tests.universal_ner.tuning import CONVERSATION, SHORT, load


def test_copies_are_found_where_the_text_goes_along_longest():
    # The text is 5 6 7 5 8 9, the answer's strings are 5 8 and 6, between them the token 9
    row = {
        "input_ids": [5, 6, 7, 5, 8, 9, 1, 9, 5, 8, 9, 6, 4, 5, 2],
        "labels": [-100] * 7 + [9, 5, 8, 9, 6, 4, 5, 2],
        "segments": [0] * 6 + [1] * 9,
    }
    found = list(find_copies(row, words={5, 6, 7, 8}))
    assert found == [(7, [3]), (8, [4]), (9, [5]), (10, [1]), (12, [0, 3])]


def spelled(tokenizer, row, positions):
    return tokenizer.decode([row["input_ids"][i] for i in positions]).strip().lower()


@pytest.mark.parametrize("template", ["serve", "train"])
def test_types_match_what_they_describe_or_the_first_token(tiny_bert_decoder, template):
    _, tokenizer = load(tiny_bert_decoder)
    (row,), _ = encode_conversation(tokenizer, CONVERSATION, template=template)
    described = {}
    for position, places in find_lookups(row, word_tokens(tokenizer))["match"]:
        positions, found = described.setdefault(row["segments"][position], ([], set()))
        positions.append(position)
        found.update(places)
    for number, words in ((1, {"marie", "curie", "pierre"}), (3, {"paris"})):
        positions, places = described.pop(number)
        assert spelled(tokenizer, row, positions) == CONVERSATION.questions[number - 1].type
        assert set(spelled(tokenizer, row, sorted(places)).split()) == words
    assert list(described) == [2]
    positions, places = described[2]
    assert spelled(tokenizer, row, positions) == "organization"
    assert places == {0}


@pytest.mark.parametrize("template", ["serve", "train"])
def test_an_answer_recalls_its_type_wherever_no_copy_goes_on(tiny_bert_decoder, template):
    _, tokenizer = load(tiny_bert_decoder)
    (row,), _ = encode_conversation(tokenizer, CONVERSATION, template=template)
    lookups = find_lookups(row, word_tokens(tokenizer))
    written = {}
    for position, places in lookups["type"]:
        type = spelled(tokenizer, row, places)
        written.setdefault(type, []).append(row["labels"][position + 1])
    # "curie" goes on with the copy that begins with "marie"
    assert {type: "".join(tokenizer.decode(ids).split()) for type, ids in written.items()} == {
        "person": '["marie","pierre"][SEP]',
        "organization": "[][SEP]",
        "location": '["paris"][SEP]',
    }


def test_words_of_each_type_are_found(folder):
    _, tokenizer = load(folder)
    (row,), _ = encode_conversation(tokenizer, CONVERSATION)
    assert spelled(tokenizer, row, row["asked"]).replace(" ", "") == "personorganizationlocation"


def test_the_end_of_a_turn_is_no_word(tiny_bert_decoder):
    _, tokenizer = load(tiny_bert_decoder)
    assert tokenizer.sep_token == "[SEP]"  # has letters
    words = word_tokens(tokenizer)
    assert words
    assert words.isdisjoint(tokenizer.all_special_ids)
    (row,), _ = encode_conversation(tokenizer, SHORT)
    text_end = row["segments"].count(0) - 1
    assert all(text_end not in places for _, places in find_copies(row, words))


def test_lookups_of_a_batch_are_numbered_by_kind(tiny_bert_decoder):
    _, tokenizer = load(tiny_bert_decoder)
    words = word_tokens(tokenizer)
    rows = [encode_conversation(tokenizer, item)[0][0] for item in (SHORT, CONVERSATION)]
    batch = collate_lookups(rows, words, ("copy", "type"))
    assert list(batch) == ["copy", "type"]
    for kind, places in batch.items():
        expected = [
            (i, position, place)
            for i, row in enumerate(rows)
            for position, found in find_lookups(row, words)[kind]
            for place in found
        ]
        assert [tuple(place[1:]) for place in places.tolist()] == expected
        numbers = places[:, 0].tolist()
        assert sorted(set(numbers)) == list(range(max(numbers) + 1))
    nothing = replace(SHORT, questions=(replace(SHORT.questions[0], answers=()),))
    rows = [encode_conversation(tokenizer, nothing)[0][0]]
    # Its type is one word, and the answer `[`, `]` and the end of the turn
    assert {kind: len(places) for kind, places in collate_lookups(rows, words).items()} == {
        "copy": 0,
        "match": 1,
        "type": 3,
    }


def test_guidance_is_how_little_attention_gets_to_the_copied_tokens():
    attention = torch.zeros(1, 2, 3, 3)
    attention[0, 0, 2] = torch.tensor([0.5, 0.25, 0.25])
    attention[0, 1, 2] = torch.tensor([0.0, 0.0, 1.0])
    attention[0, :, 1] = torch.tensor([1.0, 0.0, 0.0])
    copies = torch.tensor([[0, 0, 2, 0], [0, 0, 2, 1], [1, 0, 1, 0]])
    expected = -(math.log(0.75) + math.log(1e-5) + 2 * math.log(1.0)) / 4
    assert guide_attention(attention, copies).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"copy_layers": [2]}, "2 in copy_layers in .copying.: the student has 2 layers"),
        ({"match_layers": [-3]}, "-3 in match_layers .* Expected -2 to 1"),
        ({"type_layers": [0], "heads": 2}, "heads = 2 .* has 4 heads a layer, and 6 are guided"),
        ({"heads": 5}, "has 4 heads a layer, and 5 are guided. Expected at most 4"),
    ],
)
def test_guided_layers_and_heads_have_to_exist(settings, message):
    with pytest.raises(ValueError, match=message):
        CopySettings(**settings).check_layers(2, 4)
    CopySettings(**settings, guidance=0.0).check_layers(2, 4)
