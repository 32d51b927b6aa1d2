"""The released evaluator's scores, against its definition written out a second time."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable
from pathlib import Path

import pytest
import spacy
import transformers
from hypothesis import given
from hypothesis import strategies as st
from spacy.language import Language
from spacy_llm.registry import registry

from scripts import evaluate_paraphrases, evaluate_records, evaluate_universal_ner
from spacy_universalner.evaluation.metrics import RELEASED_EPSILON, count_strings, total
from spacy_universalner.universal_ner.parser import parse_strict
from tests.universal_ner import gazetteer
from tests.universal_ner.gazetteer import QUESTION
from tests.universal_ner.gazetteer import AnyAnswers as Answers


def read(answer: str) -> list[str]:
    """From the start up to the first "]", by a JSON parser; else nothing. Distinct, in order."""
    match = re.match(r"\[(.*?)\]", answer)
    try:
        items = json.loads(match.group()) if match else []
        distinct: list[str] = []
        for item in items:
            kept = "".join(each for each in item.lower() if each not in set(string.punctuation))
            kept = " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())
            if kept not in distinct:
                distinct.append(kept)
        return distinct
    except Exception:
        return []


def score(golds: list[str], answers: list[str]) -> tuple[float, float, float]:
    correct = predicted = gold = 0
    for expected, answer in zip(golds, answers, strict=True):
        right, found = read(expected), read(answer)
        correct += sum(each in right for each in found)
        predicted += len(found)
        gold += len(right)
    precision, recall = correct / (predicted + 1e-10), correct / (gold + 1e-10)
    return precision, recall, 2 * precision * recall / (precision + recall + 1e-10)


names = st.sampled_from(
    ["The Who", "who", "U.S.", "us", "a", "an [apple]", "rock 'n' roll", "Yes", "", "Zoë", 'a "b"']
)
lists = st.lists(names, max_size=4).map(lambda items: json.dumps(items, ensure_ascii=False))
answers = st.one_of(
    lists,
    lists.map(lambda text: text + " and more"),
    lists.map(lambda text: " " + text),
    lists.map(lambda text: text[:-1]),
    lists.map(lambda text: text.replace('"', "'")),
    lists.map(lambda text: text.replace(", ", ",\n")),
    st.sampled_from(["", "[1, 2]", '["a", 3]', "[null]", '[["a"]]', "none", '{"a": ["b"]}']),
    st.just("[" * 3000 + "]"),
)


@given(st.lists(st.tuples(lists, answers), max_size=12))
def test_scores_equal_the_released_evaluator_to_the_last_digit(records: list[tuple[str, str]]):
    golds, given_answers = [gold for gold, _ in records], [answer for _, answer in records]
    counts = total(
        count_strings(parse_strict(gold), parse_strict(answer)) for gold, answer in records
    )
    assert counts.scores(RELEASED_EPSILON) == score(golds, given_answers)


def write_records(path: Path) -> None:
    """Evaluation records in the published form: one question each, the text repeated."""
    records = [
        ("Ada met Ada in Turin .", "person", ["Ada"]),
        ("Ada met Ada in Turin .", "city", ["Turin"]),
        ("Ada met Ada in Turin .", "river", []),
        ("Nobody came to Turin .", "person", []),
        ("Nobody came to Turin .", "city", ["Turin"]),
    ]
    rows = []
    for i, (text, type_, strings) in enumerate(records):
        turns = [f"Text: {text}", "I've read this text.", f"What describes {type_} in the text?"]
        turns.append(json.dumps(strings))
        speakers = ("human", "gpt", "human", "gpt")
        said = [{"from": who, "value": what} for who, what in zip(speakers, turns, strict=True)]
        rows.append({"id": f"records_{i}", "conversations": said})
    path.write_text(json.dumps(rows), "utf8")


@pytest.fixture
def pipeline(tmp_path: Path, tiny_llama: Path) -> Path:
    nlp: Language = spacy.blank("en")
    model = {"@llm_models": "spacy-universalner.HF.v1", "name": str(tiny_llama)}
    config = {"labels": ["person"], "model": model, "max_new_tokens": 12}
    nlp.add_pipe("universal_ner", config=config)
    nlp.to_disk(tmp_path / "pipeline")
    return tmp_path / "pipeline"


def test_published_records_are_asked_and_scored(pipeline: Path, tmp_path: Path):
    write_records(tmp_path / "records.json")
    evaluate_records.main(pipeline, tmp_path / "records.json", tmp_path / "out" / "records.json")
    results = json.loads((tmp_path / "out/records.json").read_text("utf8"))
    lines = (tmp_path / "out/records.jsonl").read_text("utf8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert (results["texts"], results["questions"]) == (2, 5)
    assert [row["type"] for row in rows] == ["person", "city", "river", "person", "city"]
    assert [row["gold"] for row in rows] == [["Ada"], ["Turin"], [], [], ["Turin"]]
    expected = score([json.dumps(row["gold"]) for row in rows], [row["answer"] for row in rows])
    released = results["released"]
    assert (released["precision"], released["recall"], released["f1"]) == expected
    assert released["gold"] == 3
    assert results["seed"] == 0
    assert list(results["provenance"]["data"]) == [str(tmp_path / "records.json")]
    assert results["provenance"]["packages"]["transformers"] == transformers.__version__
    assert results["config"]["components"]["universal_ner"]["max_new_tokens"] == 12


@registry.llm_models("test.Talker.v1")
def make_talker() -> Callable[[Answers], Answers]:
    """Knows a person by one of her names, and never just answers."""
    known = {"person": ["Ada"], "human": ["ada", "Turin"], "city": ["Turin"]}

    def answer(prompts: Answers) -> Answers:
        asked = [[QUESTION.search(prompt)[1] for prompt in group] for group in prompts]
        return [[f"Sure: {json.dumps(known.get(type_, []))}" for type_ in each] for each in asked]

    return answer


@pytest.fixture
def talker(tmp_path: Path) -> Path:
    nlp = spacy.blank("en")
    config = {"labels": ["person"], "model": {"@llm_models": "test.Talker.v1"}}
    nlp.add_pipe("universal_ner", config=config)
    nlp.to_disk(tmp_path / "talker")
    return tmp_path / "talker"


def test_records_are_read_in_two_ways(talker: Path, tmp_path: Path):
    write_records(tmp_path / "records.json")
    evaluate_records.main(talker, tmp_path / "records.json", tmp_path / "out.json")
    results = json.loads((tmp_path / "out.json").read_text("utf8"))
    assert [results["released"][key] for key in ("correct", "predicted", "gold")] == [0, 0, 3]
    # Two cities and Ada right, Ada where nobody came wrong.
    assert [results["tolerant"][key] for key in ("correct", "predicted", "gold")] == [3, 4, 3]


def test_a_record_that_is_too_long_counts_as_unanswered(pipeline: Path, tmp_path: Path, capsys):
    write_records(tmp_path / "records.json")
    rows = json.loads((tmp_path / "records.json").read_text("utf8"))
    rows[1]["conversations"][0]["value"] += " again" * 1100
    (tmp_path / "records.json").write_text(json.dumps(rows), "utf8")
    evaluate_records.main(pipeline, tmp_path / "records.json", tmp_path / "out.json")
    results = json.loads((tmp_path / "out.json").read_text("utf8"))
    answered = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    failed = [row for row in answered if "error" in row]
    assert results["unanswered"] == len(failed) == 1 and len(answered) == results["questions"] == 5
    assert failed[0]["answer"] == "" and "exceeds the 1024 tokens" in failed[0]["error"]
    assert results["released"]["gold"] == 3
    assert "1 of 5 questions have no answer" in " ".join(capsys.readouterr().out.split())


def test_paraphrases_are_compared_on_what_is_answered(talker: Path, tmp_path: Path):
    entities = [{"start": 0, "end": 3, "label": "PERSON"}]
    row = {"id": "1", "text": "Ada met Ada in Turin.", "entities": entities}
    (tmp_path / "gold.jsonl").write_text(json.dumps(row), "utf8")
    ways = {"PERSON": ["person", "human"], "CITY": ["city", "town"]}
    (tmp_path / "ways.json").write_text(json.dumps(ways), "utf8")
    output = tmp_path / "paraphrases.json"
    evaluate_paraphrases.main(talker, tmp_path / "gold.jsonl", tmp_path / "ways.json", output)
    labels = json.loads(output.read_text("utf8"))["labels"]
    assert labels["PERSON"]["f1"] == {"person": pytest.approx(1), "human": pytest.approx(2 / 3)}
    assert (labels["PERSON"]["rate"], labels["PERSON"]["overlap"]) == (0, 0.5)
    assert labels["CITY"]["f1"] == {"city": 0, "town": 0}
    assert (labels["CITY"]["answered_rate"], labels["CITY"]["overlap"]) == (0, 0)


def test_paraphrases_without_an_answer_do_not_agree(tmp_path: Path, capsys):
    gazetteer.save_pipeline(tmp_path / "pipeline", {"person": ["Ada"]})
    entities = [{"start": 0, "end": 3, "label": "PERSON"}]
    rows = [{"text": text, "entities": entities} for text in ("Ada met Bo.", "Ada is BROKEN.")]
    (tmp_path / "gold.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf8")
    (tmp_path / "ways.json").write_text(json.dumps({"PERSON": ["person", "human"]}), "utf8")
    inputs = tmp_path / "pipeline", tmp_path / "gold.jsonl", tmp_path / "ways.json"
    evaluate_paraphrases.main(*inputs, tmp_path / "out.json")
    result = json.loads((tmp_path / "out.json").read_text("utf8"))["labels"]["PERSON"]
    assert (result["texts"], result["rate"], result["unanswered"]) == (1, 0, 2)
    assert result["f1"]["person"] == pytest.approx(2 / 3)  # one of two
    assert "2 questions have no answer" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("ways", [{"PERSON": "person"}, {"PERSON": ["person"]}, ["person"]])
def test_ways_to_ask_are_at_least_two_and_gold_is_not_written_over(
    pipeline: Path, tmp_path: Path, ways
):
    gold, asked = tmp_path / "gold.jsonl", tmp_path / "ways.json"
    gold.write_text('{"text": "Ada ran."}', "utf8")
    asked.write_text(json.dumps(ways), "utf8")
    with pytest.raises(SystemExit):
        evaluate_paraphrases.main(pipeline, gold, asked, tmp_path / "out.json")
    asked.write_text(json.dumps({"PERSON": ["person", "human"]}), "utf8")
    with pytest.raises(SystemExit):
        evaluate_paraphrases.main(pipeline, gold, asked, gold)
    assert gold.read_text("utf8") == '{"text": "Ada ran."}'


def test_paraphrases_are_asked_of_every_text(pipeline: Path, tmp_path: Path):
    entities = [{"start": 0, "end": 3, "label": "PERSON"}]
    row = {"id": "1", "text": "Ada met Ada in Turin.", "entities": entities}
    (tmp_path / "gold.jsonl").write_text(json.dumps(row), "utf8")
    ways = {"PERSON": ["person", "human"], "CITY": ["city", "town", "person"]}
    (tmp_path / "ways.json").write_text(json.dumps(ways), "utf8")
    output = tmp_path / "paraphrases.json"
    evaluate_paraphrases.main(pipeline, tmp_path / "gold.jsonl", tmp_path / "ways.json", output)
    report = json.loads(output.read_text("utf8"))
    assert report["config"]["nlp"]["pipeline"] == ["universal_ner"]
    assert len(report["provenance"]["data"]) == 2
    labels = report["labels"]
    assert {label: list(result["f1"]) for label, result in labels.items()} == ways
    assert all(result["texts"] == 1 for result in labels.values())


def test_systems_are_compared_on_their_labels_and_on_held_out_types(pipeline: Path, tmp_path: Path):
    data = tmp_path / "passages.jsonl"
    entities = [{"start": 0, "end": 3, "label": "person"}]
    rows = [{"id": str(i), "text": "Ada met Ada in Turin.", "entities": entities} for i in range(3)]
    data.write_text("\n".join(map(json.dumps, rows)), "utf8")
    questions = [{"type": type_, "answers": ["x"]} for type_ in ("city", "river")]
    conversations = tmp_path / "conversations.jsonl"
    conversations.write_text(json.dumps({"id": "1", "text": "x", "questions": questions}), "utf8")
    systems = [f"tuned={pipeline}", f"untuned={pipeline}"]
    evaluate_universal_ner.main(
        systems, tmp_path, gold=data, heldout=data, train=conversations, limit=["untuned=2"]
    )
    for name, texts in (("tuned", 3), ("untuned", 2)):
        gold = json.loads((tmp_path / f"zero_shot_{name}.json").read_text("utf8"))
        heldout = json.loads((tmp_path / f"heldout_{name}.json").read_text("utf8"))
        assert (gold["texts"], gold["types"]) == (texts, "pipeline")
        assert (heldout["texts"], heldout["types"]) == (texts, "passage")
        assert heldout["questions"] == 2 * texts  # its own type and an absent one
    for limit in ("tunned=2", "tuned=few", "tuned=0"):
        with pytest.raises(SystemExit):
            evaluate_universal_ner.main(
                systems, tmp_path, gold=data, heldout=data, train=conversations, limit=[limit]
            )
