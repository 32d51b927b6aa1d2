from __future__ import annotations

import json
from pathlib import Path

import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.tokens import DocBin

from spacy_universalner.data.readers import (
    conversation_to_dict,
    doc_to_passage,
    make_jsonl_corpus,
    passage_from_dict,
    passage_to_dict,
    passages_to_docbin,
    read_conversations,
    read_docs,
    read_passages,
    read_rows,
    write_conversations,
    write_passages,
)
from spacy_universalner.ty import Conversation, Mention, Passage, Question, Reject

NLP = spacy.blank("en")
ROME = Passage("r", "Ada saw New York City.", (Mention(0, 3, "person"), Mention(8, 21, "city")))


@st.composite
def passages(draw: st.DrawFn) -> Passage:
    text = draw(st.text(min_size=1))
    starts = st.integers(0, len(text) - 1)
    spans = starts.flatmap(lambda s: st.tuples(st.just(s), st.integers(s + 1, len(text))))
    mentions = st.builds(
        lambda span, label, score: Mention(*span, label, score),
        spans,
        st.text(min_size=1),
        st.none() | st.floats(0.01, 1),
    )
    found = draw(st.lists(mentions, unique_by=lambda m: (m.start, m.end, m.label)))
    return Passage(draw(st.text()), text, tuple(sorted(found)))


@given(passages())
def test_passages_round_trip(passage: Passage) -> None:
    assert passage_from_dict(passage_to_dict(passage), "here") == passage


def test_the_files_of_the_project_are_read(tmp_path: Path) -> None:
    gold = Path(__file__).parents[2] / "assets" / "gold_test.jsonl"
    found = list(read_passages(gold))
    assert (len(found), sum(len(passage.mentions) for passage in found)) == (250, 396)
    assert write_passages(tmp_path / "new" / "copy.jsonl", found) == 250
    assert (tmp_path / "new" / "copy.jsonl").read_bytes() == gold.read_bytes()


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "2: not JSON: Expecting property name"),
        ("[1]", r"2: expected a JSON object, found \[1\]"),
        ('{"id": 1}', '2: a passage needs "text", a string; found None'),
        ('{"text": "a", "entities": [{"start": 0}]}', '2: an entity needs "start", "end"'),
        (
            '{"text": "a", "entities": [{"start": 0, "end": 1, "label": ""}]}',
            '2: an entity needs "start", "end" and "label"',
        ),
        ('{"text": "a", "entities": ["a"]}', '2: an entity needs "start", "end" and "label"'),
        (
            '{"text": "a", "entities": [{"start": 0, "end": 1, "type": "x"}]}',
            '2: an entity needs "start", "end" and "label"',
        ),
        ('{"text": "a", "entities": 5}', '2: "entities" is a list; found 5'),
        *(
            (
                f'{{"text": "abc", "entities": [{{"start": {start}, "end": 2, "label": "x"}}]}}',
                '2: an entity needs "start", "end" and "label"',
            )
            for start in ("0.7", "true", '"0.7"', "null", "1e400")
        ),
        (r'{"text": "a \ud83d"}', r"2: '\\ud83d' is half of a surrogate pair"),
        (
            r'{"text": "a", "entities": [{"start": 0, "end": 1, "label": "\ud83d"}]}',
            r"2: '\\ud83d' is half of a surrogate pair",
        ),
        (
            '{"text": "a", "entities": [{"start": 0, "end": 2, "label": "x"}]}',
            "2: entity 0-2 is outside the text, which has 1 characters",
        ),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "fine"}\n' + line, encoding="utf8")
    with pytest.raises(ValueError, match=f"bad.jsonl:{message}"):
        list(read_passages(path))


def test_a_byte_order_mark_is_no_character(tmp_path: Path) -> None:
    for name, content in (("a.jsonl", '{"text": "Ada", "id": "7"}'), ("a.csv", "id,text\n7,Ada")):
        path = tmp_path / name
        path.write_text(content, encoding="utf-8-sig")
        assert list(read_passages(path)) == [Passage("7", "Ada")]


def test_long_fields_and_ids_that_are_missing(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"text\n{'Ada ' * 50_000}\n", "utf8")
    (passage,) = read_passages(tmp_path / "a.csv")
    assert len(passage.text) == 200_000
    (tmp_path / "a.jsonl").write_text('{"text": "a", "id": null}\n{"text": "b"}', "utf8")
    assert [p.id for p in read_passages(tmp_path / "a.jsonl")] == [
        f"{tmp_path}/a.jsonl:{number}" for number in (1, 2)
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_another_encoding_is_named(tmp_path: Path, name: str) -> None:
    content = {"a.jsonl": '{"text": "Zoë"}', "a.csv": "text\nZoë"}[name]
    (tmp_path / name).write_bytes(content.encode("latin1"))
    with pytest.raises(ValueError, match=rf"{name}: not UTF-8 .*iconv"):
        list(read_passages(tmp_path / name))


def test_entities_may_be_labelled_by_another_key(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"id": "1", "text": "Ada", "entities": [{"start": 0, "end": 3, "label": "x", '
        '"description": "a human"}, {"start": 0, "end": 1, "label": "y"}]}',
        encoding="utf8",
    )
    (passage,) = read_passages(path, label="description")
    assert passage.mentions == (Mention(0, 3, "a human"),)


def test_conversations_round_trip(tmp_path: Path) -> None:
    conversations = [
        Conversation("1", "Zoë\u2028 ran.", (Question("person", ("Zoë",)), Question("city"))),
        Conversation("2", "Hm.", (), "movies"),
    ]
    path = tmp_path / "a.jsonl"
    assert write_conversations(path, conversations) == 2
    assert list(read_conversations(path)) == conversations
    assert "Zoë" in path.read_text("utf8")
    assert "dataset" not in conversation_to_dict(conversations[0])
    question = '{"type": "x", "answers": "Ada"}'
    path.write_text(f'{{"id": "1", "text": "a", "questions": [{question}]}}', encoding="utf8")
    with pytest.raises(ValueError, match=r"a.jsonl:1: .* answers are a list of strings, .*'Ada'"):
        list(read_conversations(path))
    path.write_text('{"id": "1", "text": "a", "questions": [{"type": "x"}]}', encoding="utf8")
    with pytest.raises(ValueError, match=r"a.jsonl:1: a conversation needs .*KeyError: 'answers'"):
        list(read_conversations(path))


@pytest.mark.parametrize(
    "row, message",
    [
        ({"text": None}, '"text" is a string, found None'),
        ({"questions": [{"type": None, "answers": []}]}, '"type" is a string, found None'),
        ({"dataset": 3}, '"dataset" is a string, found 3'),
        ({"questions": [{"type": "\ud83d", "answers": []}]}, "is half of a surrogate pair"),
    ],
)
def test_values_of_a_conversation_that_are_no_strings(tmp_path: Path, row, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"id": "1", "text": "Ada", "questions": [], **row}), "utf8")
    with pytest.raises(ValueError, match=f"a.jsonl:1: .*{message}"):
        list(read_conversations(path))


def test_texts_that_an_annotation_run_has_dropped_are_passed_over(tmp_path: Path) -> None:
    rows = [
        {"id": "1", "text": "Ada", "entities": [], "dropped": None},
        {"id": "2", "text": "Bob", "entities": [], "dropped": {"item": "", "reason": "no answer"}},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf8")
    assert [passage.id for passage in read_passages(tmp_path / "a.jsonl")] == ["1"]


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    def fails() -> object:
        yield ROME
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_passages(tmp_path / "a.jsonl", fails())  # type: ignore[arg-type]
    assert not (tmp_path / "a.jsonl").exists()


def test_entities_become_ents_or_spans() -> None:
    overlapping = Passage("o", ROME.text, (*ROME.mentions, Mention(8, 16, "state")))
    docs, rejects = passages_to_docbin(NLP, [ROME, overlapping])
    first, second = DocBin().from_bytes(docs.to_bytes()).get_docs(NLP.vocab)
    assert doc_to_passage(first, "?") == ROME
    assert doc_to_passage(second, "?").mentions == ROME.mentions
    assert rejects == [("o", Reject("New York", "overlaps a longer entity"))]
    docs, rejects = passages_to_docbin(NLP, [overlapping], spans_key="sc")
    (doc,) = docs.get_docs(NLP.vocab)
    assert set(doc_to_passage(doc, "?", spans_key="sc").mentions) == set(overlapping.mentions)
    assert (doc.ents, rejects) == ((), [])


def test_offsets_may_be_whole_numbers_of_another_type(tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    path.write_text('{"text": "abc", "entities": [{"start": 1.0, "end": "2", "label": "x"}]}')
    (passage,) = read_passages(path)
    assert passage.mentions == (Mention(1, 2, "x"),)


def test_a_damaged_file_of_docs_is_named(tmp_path: Path) -> None:
    (tmp_path / "cut.spacy").write_bytes(b"not a DocBin")
    with pytest.raises(ValueError, match=r"cut\.spacy: expected a file of spaCy's DocBin"):
        list(read_docs(tmp_path / "cut.spacy"))


def test_a_doc_of_another_source_gets_an_id() -> None:
    assert doc_to_passage(NLP("Hm."), "x-1") == Passage("x-1", "Hm.")
    assert doc_to_passage(NLP("Hm."), "x-1", spans_key="sc") == Passage("x-1", "Hm.")


def test_the_corpus_reader_trains_on_jsonl(tmp_path: Path) -> None:
    write_passages(tmp_path / "a.jsonl", [ROME])
    reader = spacy.registry.readers.get("spacy-universalner.JsonlCorpus.v1")
    assert reader is make_jsonl_corpus
    corpus = reader(tmp_path / "a.jsonl")
    for _ in range(2):
        (example,) = corpus(NLP)
        assert [(ent.text, ent.label_) for ent in example.reference.ents] == [
            ("Ada", "person"),
            ("New York City", "city"),
        ]
        assert not example.predicted.ents


def test_tables_are_told_by_suffix(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y\n1,2\n", encoding="utf8")
    assert list(read_rows(path)) == [(f"{path}:2", {"x": "1", "y": "2"})]
    with pytest.raises(ValueError, match=r"Cannot read a.xls: .*\.csv or \.parquet; .* \.txt"):
        list(read_rows("a.xls"))
