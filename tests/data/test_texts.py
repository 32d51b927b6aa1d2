from __future__ import annotations

from pathlib import Path

import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st

from spacy_universalner.data.annotation.texts import (
    TextSettings,
    cut,
    prepare_texts,
    read_texts,
    sample,
)
from spacy_universalner.data.duplicates import DuplicateFilter
from spacy_universalner.ty import Passage, Reject

TOKENIZER = spacy.blank("en").tokenizer
LONG = "The quick brown fox jumps over the lazy dog near the old river bank today"


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf8")
    return path


def passages(*texts: str) -> list[Passage]:
    return [Passage(str(i), text) for i, text in enumerate(texts)]


def judge(*texts: str, threshold: float | None = 0.8) -> list[Reject | None]:
    return list(map(DuplicateFilter(threshold), passages(*texts)))


def test_lines_and_tables_are_read(tmp_path: Path) -> None:
    assert list(read_texts(write(tmp_path / "a.txt", "One.\n\n Two. \n"))) == [
        Passage("a-1", "One."),
        Passage("a-3", "Two."),
    ]
    rows = '{"id": 7, "text": "One.", "entities": [{"start": 0, "end": 3, "label": "x"}]}\n'
    assert list(read_texts(write(tmp_path / "a.jsonl", rows + '{"text": "Two."}'))) == [
        Passage("7", "One."),
        Passage("a-2", "Two."),
    ]
    assert list(read_texts(write(tmp_path / "a.csv", 'text\n"One,\ntwo."\n'))) == [
        Passage("a-1", "One,\ntwo.")
    ]


def test_parquet_is_read_or_says_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        with pytest.raises(ImportError, match=r"needs pyarrow\. Install it with"):
            list(read_texts(path))
    else:
        pyarrow.parquet.write_table(pyarrow.table({"text": ["One.", "Two."]}), path)
        assert list(read_texts(path)) == [Passage("a-1", "One."), Passage("a-2", "Two.")]


def test_a_row_without_a_text_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "One."}\n{"txt": "Two."}\n')
    with pytest.raises(
        ValueError, match=r'a.jsonl:2: a passage needs "text", a string; found None'
    ):
        list(read_texts(path))
    with pytest.raises(ValueError, match=r"Cannot read .*a.doc: expected .jsonl"):
        list(read_texts(tmp_path / "a.doc"))


def test_long_texts_are_cut_at_tokens() -> None:
    long = Passage("p", "One two, three.\n Four five")
    assert list(cut([Passage("s", "One."), long], TOKENIZER, 3)) == [
        Passage("s", "One."),
        Passage("p-1", "One two,"),
        Passage("p-2", "three."),
        Passage("p-3", "Four five"),
    ]
    assert list(cut([long], TOKENIZER, 8)) == [long]


@given(st.text(max_size=200), st.integers(1, 20))
def test_cutting_loses_nothing_but_white_space(text: str, max_tokens: int) -> None:
    parts = [part.text for part in cut([Passage("p", text)], TOKENIZER, max_tokens)]
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert len(parts) <= -(-len(TOKENIZER(text)) // max_tokens) or not text


def test_equal_words_are_duplicates() -> None:
    assert judge("Ada met Bob.", "ada  met, BOB", "Bob met Ada.", threshold=None) == [
        None,
        Reject("0", "duplicate"),
        None,
    ]
    assert judge("!", "?") == [None, None]


def test_similar_texts_are_near_duplicates() -> None:
    # 13 runs of three words and one more: 13 / 14 in common; one word changed: 10 / 16.
    assert judge(LONG, f"{LONG} again") == [None, Reject("0", "near duplicate")]
    assert judge(LONG, LONG.replace("lazy", "dead")) == [None, None]
    assert judge(LONG, LONG.replace("lazy", "dead"), threshold=0.6) == [
        None,
        Reject("0", "near duplicate"),
    ]
    assert judge(LONG, f"{LONG} again", threshold=None) == [None, None]


def test_similarity_is_a_share() -> None:
    with pytest.raises(ValueError, match=r"must be in \(0, 1\], found 80"):
        DuplicateFilter(80)


def test_a_sample_keeps_the_order_and_repeats() -> None:
    texts = passages(*map(str, range(1000)))
    drawn = sample(texts, 100, seed=1)
    assert drawn == sample(iter(texts), 100, seed=1)
    assert drawn != sample(texts, 100, seed=2)
    assert [int(p.id) for p in drawn] == sorted({int(p.id) for p in drawn})
    assert len(drawn) == 100
    assert 350 < sum(int(p.id) for p in drawn) / 100 < 650  # from all over
    assert sample(texts, 2000, seed=1) == texts


def test_texts_are_prepared_in_order(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "a b c d\nA B.\nx y\nz\n")
    settings = TextSettings(max_tokens=2, limit=3)
    texts, rejects = prepare_texts(path, TOKENIZER, settings)
    assert [(p.id, p.text) for p in texts] == [("a-1-1", "a b"), ("a-1-2", "c d"), ("a-3", "x y")]
    assert rejects == [("a-2", Reject("a-1-1", "duplicate"))]
    drawn, _ = prepare_texts(path, TOKENIZER, TextSettings(sample=2))
    assert len(list(drawn)) == 2
