from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from scripts.build_conversations import main
from spacy_universalner.data.conversations import TextSplit, answers_by_type, build_conversations
from spacy_universalner.data.negatives import NegativeSampler
from spacy_universalner.data.readers import read_conversations, read_passages, write_passages
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
SCRIPT = typer.Typer()
SCRIPT.command()(main)
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


def test_the_script_splits_texts_and_balances_questions(tmp_path: Path) -> None:
    passages = [
        Passage(f"p{i}", f"Ada saw Rome {i}.", (Mention(0, 3, "person"), Mention(8, 12, "city")))
        for i in range(200)
    ]
    sentences = [Passage(f"s{i}", f"Bob ran {i}.", (Mention(0, 3, "human"),)) for i in range(200)]
    sentences += [replace(passage, id=f"again-{passage.id}") for passage in passages]
    write_passages(tmp_path / "passages.jsonl", passages)
    write_passages(tmp_path / "sentences.jsonl", sentences)
    arguments = [tmp_path / "out", "--passages", tmp_path / "passages.jsonl", "--dev", 0.1]
    arguments += ["--sentences", tmp_path / "sentences.jsonl", "--metrics", tmp_path / "m.json"]
    result = CliRunner().invoke(SCRIPT, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output

    train = list(read_conversations(tmp_path / "out" / "conversations_train.jsonl"))
    dev = list(read_conversations(tmp_path / "out" / "conversations_dev.jsonl"))
    held = list(read_passages(tmp_path / "out" / "uniner_heldout.jsonl"))
    texts = [{record.text for record in records} for records in (train, dev, held)]
    assert texts[0] | texts[1] | texts[2] == {each.text for each in (*passages, *sentences)}
    assert sum(map(len, texts)) == 400
    assert len(train) + len(dev) + 2 * len(held) == 600  # held-out texts nowhere else
    assert 10 < len(held) < 30
    assert all(passage.mentions for passage in held)
    for conversation in (*train, *dev):
        answered = [bool(question.answers) for question in conversation.questions]
        types = {question.type for question in conversation.questions}
        assert len(types) == len(answered) <= 3
        assert sum(answered) == (1 if conversation.text.startswith("Bob") else 2)
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert (metrics["types"], metrics["negatives"]) == (3, "frequency")
    assert metrics["splits"]["train"]["texts"] == len(train)
    questions = sum(len(conversation.questions) for conversation in train)
    assert metrics["splits"]["train"]["questions"] == questions

    again = [str(argument) for argument in (tmp_path / "again", *arguments[1:])]
    CliRunner().invoke(SCRIPT, again)
    for name in ("conversations_train.jsonl", "conversations_dev.jsonl", "uniner_heldout.jsonl"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()

    unknown = {"--ask": "definition", "--negatives": "weird"}
    for option, value in unknown.items():
        failed = CliRunner().invoke(SCRIPT, [*again, option, value])
        assert failed.exit_code == 1 and f"'{value}'" in failed.output


def test_inputs_are_not_written_over(tmp_path: Path) -> None:
    held = tmp_path / "uniner_heldout.jsonl"
    write_passages(held, [replace(ADA, id=str(i)) for i in range(5)])
    before = held.read_bytes()
    for option in ("--passages", "--sentences"):
        result = CliRunner().invoke(SCRIPT, [str(tmp_path), option, str(held)])
        assert result.exit_code == 1
        assert "would be written over the texts in" in " ".join(result.output.split())
    assert held.read_bytes() == before


@pytest.mark.parametrize("option", ["--passages", "--sentences"])
def test_an_absent_file_is_one_message(tmp_path: Path, option: str) -> None:
    result = CliRunner().invoke(SCRIPT, [str(tmp_path / "out"), option, f"{tmp_path}/no.jsonl"])
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit)
    assert "does not exist" in " ".join(result.output.split())


def test_a_line_that_holds_no_passage_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": 3}')
    result = CliRunner().invoke(
        SCRIPT, [str(tmp_path / "out"), "--passages", f"{tmp_path}/bad.jsonl"]
    )
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert 'bad.jsonl:1: a passage needs "text"' in " ".join(result.output.split())


def test_questions_may_ask_by_definition(tmp_path: Path) -> None:
    entities = [
        {"start": 0, "end": 3, "label": "person", "description": "human individual"},
        {"start": 8, "end": 12, "label": "city"},
    ]
    rows = [{"text": f"Ada saw Rome {i}.", "entities": entities} for i in range(20)]
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = ["--sentences", f"{tmp_path}/texts.jsonl", "--ask", "description", "--dev", "0"]
    result = CliRunner().invoke(SCRIPT, [str(tmp_path / "out"), *arguments])
    assert result.exit_code == 0, result.output
    (questions,) = {
        each.questions for each in read_conversations(tmp_path / "out/conversations_train.jsonl")
    }
    assert questions == (Question("human individual", ("Ada",)),)


def test_conversations_are_streamed() -> None:
    endless = (replace(ADA, id=str(i)) for i in count())
    conversations = build_conversations(endless, SAMPLER)
    assert [conversation.id for conversation in islice(conversations, 3)] == ["0", "1", "2"]
