"""From tokens to characters, and where an answer's list closes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from spacy_universalner.universal_ner.models.closing import find_close
from spacy_universalner.universal_ner.models.spelling import is_lossy, respell, spell
from spacy_universalner.universal_ner.prompt import format_answer
from spacy_universalner.universal_ner.tokenization import encode_plain

LOSSLESS = ["tiny_llama", "tiny_gpt2", "tiny_neox"]


@pytest.mark.parametrize("family", LOSSLESS)
@given(strings=st.lists(st.text(max_size=12), max_size=4))
def test_an_answer_is_read_back_with_every_token_in_its_place(
    family: str, request: pytest.FixtureRequest, strings: list[str]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(request.getfixturevalue(family))
    answer = format_answer(strings)
    encoded = list(encode_plain(tokenizer, answer))
    text, ends = spell(tokenizer, [token for token, _, _ in encoded])
    assert text == answer
    assert ends == sorted(ends)
    # A character of several tokens is whole with the last one; SentencePiece's own first space
    # has no characters in the answer.
    starts = [first for _, first, _ in encoded[1:]] + [len(answer)]
    whole = [end for end, start in zip(ends, starts, strict=True) if end == start]
    assert whole[-1:] == [len(answer)]
    assert set(ends) <= set(range(len(answer) + 1))


def test_ends_of_plain_and_of_many_byte_characters(tiny_gpt2: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2)
    ids = [token for token, _, _ in encode_plain(tokenizer, '["é🙂"]')]
    pieces = tokenizer.convert_ids_to_tokens(ids)
    assert pieces == ['["', "Ã", "©", "ð", "Ł", "Ļ", "Ĥ", '"]']
    assert spell(tokenizer, ids) == ('["é🙂"]', [2, 2, 3, 3, 3, 3, 4, 6])


def test_lower_casing_tokenizers_spell_strings_as_the_text_does(tiny_bert: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    source = 'The "Big-Apple" Inc. met Zoë O\'Neil at A\\B; catfish, Cat.'
    answer = '["big-apple", "the \\"big-apple\\"", "ZOE o\'neil", "a\\\\b", "cat", "no Where", "cut'
    ids = [token for token, _, _ in encode_plain(tokenizer, answer)]
    assert spell(tokenizer, ids)[0].startswith('[ " big - apple ", " the \\ "'), "else no need"
    text, ends = respell(tokenizer, ids, source)
    assert text == (
        '[ "Big-Apple", "The \\"Big-Apple\\"", "Zoë O\'Neil", "A\\\\B", "Cat", "no where", "cut'
    )
    assert len(ends) == len(ids)
    assert ends == sorted(ends)
    quotes = [end for end, id in zip(ends, ids, strict=True) if tokenizer.decode([id]) == '"']
    assert all(text[end - 1] == '"' for end in quotes)


def test_which_tokenizers_are_lossy(request: pytest.FixtureRequest) -> None:
    lossy = {
        family: is_lossy(AutoTokenizer.from_pretrained(request.getfixturevalue(family)))
        for family in [*LOSSLESS, "tiny_bert"]
    }
    assert lossy == {
        "tiny_llama": False,
        "tiny_gpt2": False,
        "tiny_neox": False,
        "tiny_bert": True,
    }


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ('["a", "b"]</s>USER: more ["c"]', '["a", "b"]'),
        ("Sure: []. Anything else?", "Sure: []"),
        ('["a]b", "c\\"]"] x', '["a]b", "c\\"]"]'),
        ('[("a", "t"), ["b"]] x', '[("a", "t"), ["b"]]'),
        ('{"person": ["a"], "date": []} x', '{"person": ["a"], "date": []}'),
        ('["a", "b', None),
        ("nothing", None),
        ("", None),
    ],
)
def test_an_answer_ends_where_its_list_closes(answer: str, kept: str | None) -> None:
    close = find_close(answer)
    assert (None if close is None else answer[:close]) == kept


@given(
    strings=st.lists(st.text(max_size=12), max_size=4),
    before=st.text(alphabet="ab :,`", max_size=5),
    after=st.text(max_size=10),
)
def test_what_follows_a_list_never_counts(strings: list[str], before: str, after: str) -> None:
    answer = before + format_answer(strings)
    assert find_close(answer + after) == len(answer)
    assert all(find_close(answer[:cut]) is None for cut in range(len(answer)))
