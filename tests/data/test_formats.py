from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import spacy
import typer
from hypothesis import given
from hypothesis import strategies as st
from spacy.tokens import DocBin
from typer.testing import CliRunner

from scripts.convert import main
from spacy_universalner.data.formats.conll import find_tag_column, read_conll, write_conll
from spacy_universalner.data.formats.convert import (
    Converter,
    conversation_to_passage,
    format_of,
    passage_to_conversation,
)
from spacy_universalner.data.formats.nuner import read_nuner, write_nuner
from spacy_universalner.data.formats.pile_ner import read_pile_ner, write_pile_ner
from spacy_universalner.data.readers import (
    read_conversations,
    read_passages,
    write_conversations,
    write_passages,
)
from spacy_universalner.ty import Conversation, Mention, Passage, Question, Reject

NLP = spacy.blank("en")
ANY = spacy.blank("xx")  # no rules that would split a word
PASSAGES = [
    Passage("1", "Ada saw New York .", (Mention(0, 3, "person"), Mention(8, 16, "city"))),
    Passage("2", "Nothing here", ()),
    Passage("3", "Rome , Ada", (Mention(0, 4, "city"), Mention(7, 10, "person"))),
]


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf8")
    return path


def tagged(tmp_path: Path, tags: str, tokens: str = "a b c d e") -> list[tuple[str, str]]:
    rows = "\n".join(map(" ".join, zip(tokens.split(), tags.split(), strict=True)))
    (passage,) = read_conll(write(tmp_path / "a.conll", rows))
    return [(passage.text[m.start : m.end], m.label) for m in passage.mentions]


@pytest.mark.parametrize(
    "scheme, tags, expected",
    [
        ("BIO", "B-x I-x B-x O B-y", [("a b", "x"), ("c", "x"), ("e", "y")]),
        ("IOB1", "I-x I-x B-x I-y O", [("a b", "x"), ("c", "x"), ("d", "y")]),
        ("IO", "I-x I-x O I-x I-y", [("a b", "x"), ("d", "x"), ("e", "y")]),
        ("BIOES", "B-x I-x E-x S-x S-x", [("a b c", "x"), ("d", "x"), ("e", "x")]),
        ("BILOU", "B-x L-x U-x O U-y", [("a b", "x"), ("c", "x"), ("e", "y")]),
        ("hyphens", "B-x-y I-x-y O O O", [("a b", "x-y")]),
    ],
)
def test_tagging_schemes(
    tmp_path: Path, scheme: str, tags: str, expected: list[tuple[str, str]]
) -> None:
    assert tagged(tmp_path, tags) == expected


def test_columns_of_conll_and_of_mit(tmp_path: Path) -> None:
    conll = "-DOCSTART- -X- O O\n\nAda NNP I-NP B-person\nran VBD I-VP O\n\n\nHm UH O O\n"
    mit = "B-person\tAda\nO\tran\n\nO\tHm"
    texts = [Passage("a-1", "Ada ran", (Mention(0, 3, "person"),)), Passage("a-2", "Hm")]
    assert list(read_conll(write(tmp_path / "a.conll", conll))) == texts
    assert list(read_conll(write(tmp_path / "a.bio", mit))) == texts
    assert list(read_conll(tmp_path / "a.bio", tags="first")) == texts
    # A byte-order mark is no character, and blanks around a tag are not of it.
    marked = "\ufeffB-person \tAda\nO\tran\n\nO\tHm"
    assert list(read_conll(write(tmp_path / "a.bio", marked))) == texts
    # A word that looks like a tag does not mislead: every line has to agree.
    odd = write(tmp_path / "a.tsv", "O\tO\nB-x\tO\nO\tAda\n")
    assert find_tag_column(odd) == "first"


@pytest.mark.parametrize(
    "content, tags, message",
    [
        ("Ada B-x\nran\n", None, r"a.conll:2: 'ran': until here each line had a tag .* last col"),
        ("O Ada\nB-x ran\nHm Hm\n", None, r"a.conll:3: 'Hm Hm': until here .* as its first col"),
        ("Ada B-x\n", "first", r"a.conll:1: expected a token and, as the first column, a tag"),
        ("Ada O\nO\n", "last", r"a.conll:2: expected a token and, as the last column"),
        ("Ada\tB-x\n\tI-x\n", "last", r"a.conll:2: expected a token and, as the last column"),
    ],
)
def test_conll_errors_name_file_and_line(
    tmp_path: Path, content: str, tags: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        list(read_conll(write(tmp_path / "a.conll", content), tags=tags))  # type: ignore[arg-type]


@pytest.mark.parametrize("tags", ["first", "last"])
def test_conll_is_written_and_read(tmp_path: Path, tags: str) -> None:
    path = tmp_path / "a.conll"
    assert write_conll(path, PASSAGES, NLP, tags=tags) == []  # type: ignore[arg-type]
    back = list(read_conll(path))
    assert [(p.text, p.mentions) for p in back] == [(p.text, p.mentions) for p in PASSAGES]
    nested = Passage("n", "New York", (Mention(0, 8, "city"), Mention(4, 8, "name")))
    assert write_conll(path, [nested, Passage("b", " "), PASSAGES[1]], NLP) == [
        ("n", Reject("York", "overlaps a longer entity")),
        ("b", Reject(" ", "text without a token")),
    ]
    assert [passage.text for passage in read_conll(path)] == ["New York", "Nothing here"]
    broken = [Mention(0, 3, label) for label in ("a\tb", "a\nb", "a\rb", "x")]
    assert (
        write_conll(path, [Passage("t", "Ada ran", tuple(broken))], NLP, tags=tags)
        == [("t", Reject("Ada", "label with a tab or line break"))] * 3
    )
    assert list(read_conll(path)) == [Passage("a-1", "Ada ran", (Mention(0, 3, "x"),))]


def test_a_no_break_space_belongs_to_its_token(tmp_path: Path) -> None:
    (passage,) = read_conll(write(tmp_path / "a.conll", "5\u00a0km  B-length\naway O\n"))
    assert passage == Passage("a-1", "5\u00a0km away", (Mention(0, 4, "length"),))


WORDS = st.text(st.characters(categories=["L"]), min_size=1, max_size=5)


@given(st.lists(st.tuples(WORDS, st.sampled_from(["", "x", "y z"]), st.booleans()), min_size=1))
def test_any_disjoint_entities_survive_conll(words: list[tuple[str, str, bool]]) -> None:
    mentions: list[Mention] = []
    offset = 0
    for word, label, joined in words:
        end = offset + len(word)
        if label and joined and mentions and mentions[-1].end == offset - 1:
            mentions[-1] = Mention(mentions[-1].start, end, mentions[-1].label)
        elif label:
            mentions.append(Mention(offset, end, label))
        offset = end + 1
    passage = Passage("a-1", " ".join(word for word, _, _ in words), tuple(mentions))
    with TemporaryDirectory() as folder:
        assert write_conll(Path(folder) / "a.conll", [passage], ANY) == []
        assert list(read_conll(Path(folder) / "a.conll")) == [passage]


PUBLISHED = [
    {
        "id": "q0",
        "conversations": [
            {"from": "human", "value": "Text: Ada saw Rome."},
            {"from": "gpt", "value": "I've read this text."},
            {"from": "human", "value": "What describes city in the text?"},
            {"from": "gpt", "value": '["Rome"]'},
        ],
    },
    {
        "id": "q1",
        "conversations": [
            {"from": "human", "value": "Text: Ada saw Rome."},
            {"from": "gpt", "value": "I've read this text."},
            {"from": "human", "value": "What describes boat in the text?"},
            {"from": "gpt", "value": "[]"},
        ],
    },
    {
        "id": "q2",
        "conversations": [
            {"from": "human", "value": "Dataset: movies\n Text: Text: Hm."},
            {"from": "gpt", "value": "I've read this text."},
        ],
    },
]
READ = [
    Conversation("q0", "Ada saw Rome.", (Question("city", ("Rome",)), Question("boat"))),
    Conversation("q2", "Text: Hm.", (), "movies"),
]


def test_published_conversations(tmp_path: Path) -> None:
    as_list = write(tmp_path / "a.json", json.dumps(PUBLISHED, indent=1))
    as_lines = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, PUBLISHED)))
    assert list(read_pile_ner(as_list)) == READ
    assert list(read_pile_ner(as_lines)) == READ
    write_pile_ner(tmp_path / "b.json", READ)
    assert list(read_pile_ner(tmp_path / "b.json")) == READ
    written = json.loads((tmp_path / "b.json").read_text("utf8"))
    assert written[0]["conversations"][:2] == PUBLISHED[0]["conversations"][:2]
    assert written[1] == PUBLISHED[2]
    write_pile_ner(tmp_path / "c.json", [])
    assert json.loads((tmp_path / "c.json").read_text("utf8")) == []


@pytest.mark.parametrize(
    "record, message",
    [
        ('{"id": "x"}', "a.json:3: not a conversation .* KeyError: 'conversations'"),
        ('{"id": "x", "conversations": [{"value": "Hi"}]}', "a.json:3: .* expected the text"),
        ("{oops}", "a.json:3: not JSON"),
    ],
)
def test_a_record_of_another_form_is_named(tmp_path: Path, record: str, message: str) -> None:
    path = write(tmp_path / "a.json", f"[\n{json.dumps(PUBLISHED[0])},\n{record}]")
    with pytest.raises(ValueError, match=message):
        list(read_pile_ner(path))


def test_nuners_release(tmp_path: Path) -> None:
    rows = [
        {"input": "Ada saw Rome.", "output": "['Ada <> person <> a human', \"Rome <> city\"]"},
        {"input": "Hm.", "output": ["Bob <> person", "nothing"]},
    ]
    found = list(read_nuner(write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))))
    mentions = (Mention(0, 3, "person"), Mention(8, 12, "city"))
    rejects = [Reject("nothing", "unparseable"), Reject("Bob", "not in text")]
    assert found == [
        (Passage("a-1", "Ada saw Rome.", mentions), []),
        (Passage("a-2", "Hm."), rejects),
    ]
    odd = ["", "1. Ada <> person\n2. Rome <> city"]
    row = json.dumps({"input": "Ada saw Rome.", "output": odd})
    assert list(read_nuner(write(tmp_path / "b.jsonl", row))) == [
        (Passage("b-1", "Ada saw Rome.", mentions), [])
    ]
    with pytest.raises(ValueError, match=r"c\.jsonl:1: .* is half of a surrogate pair"):
        list(read_nuner(write(tmp_path / "c.jsonl", '{"input": "a \\ud83d", "output": []}')))
    csv = write(tmp_path / "a.csv", "input,output\nAda saw Rome.,\"['Ada <> person']\"\n")
    assert [passage.mentions for passage, _ in read_nuner(csv)] == [(Mention(0, 3, "person"),)]
    with pytest.raises(ValueError, match=r'a.csv:2: expected "input", a sentence, and "output"'):
        list(read_nuner(write(tmp_path / "a.csv", "text,output\nAda,[]\n")))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_any_entity_survives_nuners_release(tmp_path: Path, suffix: str) -> None:
    texts = ["1. FC Köln", "New\nYork", "St\u2028Louis", "- x", "a\rb", "c\r\nd"]
    passages = [Passage(f"a-{i}", t, (Mention(0, len(t), "x"),)) for i, t in enumerate(texts, 1)]
    path = tmp_path / f"a{suffix}"
    assert write_nuner(path, passages) == []
    assert list(read_nuner(path)) == [(passage, []) for passage in passages]
    odd = Passage("o", "a <> b", (Mention(0, 6, "formula"), Mention(0, 1, "c <> d")))
    assert write_nuner(path, [odd]) == [
        ("o", Reject("a <> c <> d", 'holds "<>"')),
        ("o", Reject("a <> b <> formula", 'holds "<>"')),
    ]
    assert [passage.mentions for passage, _ in read_nuner(path)] == [()]


def test_passages_and_conversations_become_each_other() -> None:
    conversation = passage_to_conversation(PASSAGES[0], "d")
    assert conversation.questions == (Question("person", ("Ada",)), Question("city", ("New York",)))
    assert conversation.dataset == "d"
    assert conversation_to_passage(conversation) == (PASSAGES[0], [])
    wrong = Conversation("1", "Ada", (Question("person", ("Bob",)),))
    assert conversation_to_passage(wrong) == (Passage("1", "Ada"), [Reject("Bob", "not in text")])


@pytest.mark.parametrize(
    "name, format",
    [
        ("b.spacy", "spacy"),
        ("b.jsonl", "passages"),
        ("b.bio", "conll"),
        ("b.json", "pile-ner"),
        ("b.jsonl", "conversations"),
        ("b.jsonl", "nuner"),
        ("b.csv", "nuner"),
    ],
)
def test_every_format_keeps_text_and_entities(tmp_path: Path, name: str, format: str) -> None:
    source = tmp_path / "a.jsonl"
    write_passages(source, PASSAGES)
    there, back = Converter(NLP), Converter(NLP)
    middle = tmp_path / name
    there(source, "passages", middle, format)  # type: ignore[arg-type]
    back(middle, format, tmp_path / "c.jsonl", "passages")  # type: ignore[arg-type]
    assert (there.count, there.rejects, back.rejects) == (3, [], [])
    found = list(read_passages(tmp_path / "c.jsonl"))
    assert [(p.text, p.mentions) for p in found] == [(p.text, p.mentions) for p in PASSAGES]


def test_parquet_is_not_written(tmp_path: Path) -> None:
    write_passages(tmp_path / "a.jsonl", PASSAGES)
    with pytest.raises(ValueError, match=r"Cannot write .*b.parquet: .* as .csv or .jsonl"):
        Converter(NLP)(tmp_path / "a.jsonl", "passages", tmp_path / "b.parquet", "nuner")


def test_negatives_survive_between_conversation_formats(tmp_path: Path) -> None:
    write_pile_ner(tmp_path / "a.json", READ)
    Converter(NLP)(tmp_path / "a.json", "pile-ner", tmp_path / "b.jsonl", "conversations")
    assert list(read_conversations(tmp_path / "b.jsonl")) == READ


def test_labels_are_renamed_or_taken_out(tmp_path: Path) -> None:
    write_passages(tmp_path / "a.jsonl", PASSAGES)
    convert = Converter(NLP, labels={"person": "human", "city": None})
    convert(tmp_path / "a.jsonl", "passages", tmp_path / "b.jsonl", "passages")
    first, *_ = read_passages(tmp_path / "b.jsonl")
    assert first.mentions == (Mention(0, 3, "human"),)
    write_pile_ner(tmp_path / "a.json", READ)
    convert = Converter(NLP, labels={"boat": None, "city": "town"}, dataset="d")
    convert(tmp_path / "a.json", "pile-ner", tmp_path / "b.json", "pile-ner")
    first, second = read_pile_ner(tmp_path / "b.json")
    assert first == Conversation("q0", "Ada saw Rome.", (Question("town", ("Rome",)),), "d")
    assert second.dataset == "d"
    # Labels that become one are asked for once, and what else a row holds stays.
    asked = (Question("PER", ("Ada",)), Question("HERO", ("Ada", "Bob")), Question("GOD"))
    write_conversations(tmp_path / "c.jsonl", [Conversation("1", "Ada met Bob.", asked)])
    convert = Converter(NLP, labels=dict.fromkeys(["PER", "HERO", "GOD"], "person"))
    convert(tmp_path / "c.jsonl", "conversations", tmp_path / "d.jsonl", "conversations")
    (merged,) = read_conversations(tmp_path / "d.jsonl")
    assert merged.questions == (Question("person", ("Ada", "Bob")),)
    entity = {"start": 0, "end": 3, "label": "PER", "description": "a human"}
    row = {"text": "Ada ran.", "entities": [entity, {**entity, "label": 3}], "year": 1843}
    dropped = {**row, "dropped": {"item": "", "reason": "no answer"}}
    write(tmp_path / "e.jsonl", f"{json.dumps(row)}\n{json.dumps(dropped)}")
    convert.labels = {**convert.labels, "3": "third"}
    convert(tmp_path / "e.jsonl", "passages", tmp_path / "f.jsonl", "passages")
    renamed = {
        **row,
        "entities": [{**entity, "label": "person"}, {**entity, "label": "third"}],
    }
    assert json.loads((tmp_path / "f.jsonl").read_text("utf8")) == renamed


def test_formats_are_told_by_suffix_or_name() -> None:
    assert format_of(Path("a.jsonl")) == "passages"
    assert format_of(Path("a.jsonl"), "nuner") == "nuner"
    with pytest.raises(ValueError, match=r"Unknown format '.doc' of a.doc. Name one of passages"):
        format_of(Path("a.doc"))


def test_the_script_converts_and_says_what_is_lost(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(main)
    row = {"input": "Ada", "output": ["Ada <> person", "Bob <> person"]}
    source = write(tmp_path / "a.jsonl", json.dumps(row))
    run = CliRunner().invoke(app, [str(source), str(tmp_path / "b.spacy"), "--from", "nuner"])
    assert run.exit_code == 0
    assert "a-1: left out 'Bob': not in text" in " ".join(run.output.split())
    wrong = CliRunner().invoke(app, [str(source), str(tmp_path / "b.spacy")])
    assert wrong.exit_code == 1
    assert 'a passage needs "text"' in " ".join(wrong.output.split())


def test_spans_that_were_not_read_are_told(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(main)
    mention = {"start": 0, "end": 3, "label": "person"}
    source = write(tmp_path / "a.jsonl", json.dumps({"text": "Ada ran", "entities": [mention]}))
    spans = ["--spans-key", "annotation"]
    docs = str(tmp_path / "b.spacy")
    assert CliRunner().invoke(app, [str(source), docs, *spans]).exit_code == 0
    run = CliRunner().invoke(app, [docs, str(tmp_path / "c.jsonl")])
    assert "1 texts have spans under 'annotation'" in " ".join(run.output.split())
    run = CliRunner().invoke(app, [docs, str(tmp_path / "c.jsonl"), *spans])
    assert "have spans" not in run.output


def test_files_of_one_name_are_not_written_over_each_other(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(main)
    sources = [write(tmp_path / f"{name}.conll", "Ada B-x\n") for name in ("train", "test")]
    (tmp_path / "more").mkdir()
    sources.append(write(tmp_path / "more" / "train.conll", "Bob B-x\n"))
    command = [*map(str, sources), str(tmp_path / "out"), "--to", "passages"]
    run = CliRunner().invoke(app, command)
    assert run.exit_code == 1
    assert "train.jsonl: convert them one by one" in " ".join(run.output.split())
    assert not (tmp_path / "out").exists()


def test_a_source_is_not_written_over(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(main)
    asked = Conversation("1", "Ada", (Question("person", ("Ada",)), Question("boat")))
    source = tmp_path / "train.jsonl"
    write_conversations(source, [asked])
    other = write(tmp_path / "a.conll", "Ada B-x\n")
    folder = [str(source), str(tmp_path), "--from", "conversations", "--to", "passages"]
    for command in (folder, [str(other), str(other)], [str(other), *folder]):
        run = CliRunner().invoke(app, command)
        assert run.exit_code == 1
        output = " ".join(run.output.split())
        assert "would be written over the texts in" in output and "Name another output" in output
    assert list(read_conversations(source)) == [asked]
    assert other.read_text("utf8") == "Ada B-x\n"


def test_the_script_converts_several_files_into_a_folder(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(main)
    mention = {"start": 0, "end": 3, "label": "person"}
    sources = [
        write(
            tmp_path / f"{name}.jsonl", json.dumps({"text": f"{name} ran", "entities": [mention]})
        )
        for name in ("Ada", "Bob")
    ]
    command = [*map(str, sources), str(tmp_path / "out"), "--to", "spacy"]
    run = CliRunner().invoke(app, command)
    assert run.exit_code == 0, run.output
    for name in ("Ada", "Bob"):
        (doc,) = DocBin().from_disk(tmp_path / "out" / f"{name}.spacy").get_docs(NLP.vocab)
        assert [(ent.text, ent.label_) for ent in doc.ents] == [(name, "person")]
    nameless = CliRunner().invoke(app, command[:-2])
    assert nameless.exit_code == 1
    assert "name their format, such as --to spacy" in " ".join(nameless.output.split())
    absent = CliRunner().invoke(app, [str(tmp_path / "Eve.jsonl"), *command])
    assert absent.exit_code == 1
    assert "Eve.jsonl" in "".join(absent.output.split())
