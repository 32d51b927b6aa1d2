"""The evaluation scripts on real pipelines with known answers."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Iterable as TypedIterable  # noqa: UP035 (spacy-llm compares these very types)

import pytest
import spacy
import typer
from spacy.cli.evaluate import evaluate as spacy_evaluate
from spacy.language import Language
from spacy.tokens import DocBin
from spacy.training import Example
from spacy_llm.registry import registry
from typer.testing import CliRunner

from scripts import evaluate, evaluate_nuner
from scripts.evaluate import ask, count_types, draw_types, predict, read_gold
from scripts.evaluate_nuner import describe, find_pipelines, summarize
from spacy_universalner.evaluation.results import make_results
from spacy_universalner.ty import Mention, Passage
from tests.universal_ner import gazetteer  # noqa: F401  (registers its models)

TEXTS = [
    ("Ada lives in Turin .", [(0, 3, "PERSON"), (13, 18, "CITY")]),
    ("Turin is not Ada .", [(0, 5, "CITY"), (13, 16, "PERSON")]),
    ("Nothing here .", []),
    ("Charles met Ada .", [(0, 7, "PERSON"), (12, 15, "PERSON")]),
]


def make_pipeline(*patterns: tuple[str, str]) -> Language:
    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("entity_ruler")
    ruler.add_patterns([{"pattern": text, "label": label} for text, label in patterns])
    return nlp


def write_gold(folder: Path) -> tuple[Path, Path]:
    """The same gold data as `.spacy` and as JSONL."""
    nlp = spacy.blank("en")
    docs = []
    with (folder / "gold.jsonl").open("w", encoding="utf8") as file:
        for i, (text, entities) in enumerate(TEXTS):
            doc = nlp(text)
            doc.set_ents([doc.char_span(start, end, label) for start, end, label in entities])
            docs.append(doc)
            rows = [{"start": start, "end": end, "label": label} for start, end, label in entities]
            file.write(json.dumps({"id": f"gold-{i}", "text": text, "entities": rows}) + "\n")
    DocBin(docs=docs).to_disk(folder / "gold.spacy")
    return folder / "gold.spacy", folder / "gold.jsonl"


@pytest.mark.parametrize("suffix", [".spacy", ".jsonl"])
def test_any_pipeline_is_scored_by_both_metrics(tmp_path: Path, suffix: str):
    make_pipeline(("Ada", "PERSON"), ("Turin", "PERSON")).to_disk(tmp_path / "pipeline")
    write_gold(tmp_path)
    data = tmp_path / f"gold{suffix}"
    output = tmp_path / "metrics" / "ruler.json"
    evaluate.main(tmp_path / "pipeline", [data], output)
    results = json.loads(output.read_text("utf8"))
    # Ada 3 times right, Turin twice wrong, Charles and two cities missed
    assert (results["texts"], results["entities"]) == (4, 6)
    span, strings = results["span"], results["string_set"]
    assert (span["correct"], span["predicted"], span["gold"]) == (3, 5, 6)
    assert span["f1"] == pytest.approx(6 / 11)
    assert strings["f1"] == pytest.approx(6 / 11)  # nothing stands twice in a text
    assert span["low"] <= span["f1"] <= span["high"]
    assert results["per_type"]["CITY"]["span"]["recall"] == 0
    assert list(results["provenance"]["data"]) == [str(data)]
    assert results["provenance"]["packages"]["spacy"] == spacy.__version__
    assert results["config"]["components"]["entity_ruler"]["factory"] == "entity_ruler"
    rows = [
        json.loads(line) for line in output.with_suffix(".jsonl").read_text("utf8").splitlines()
    ]
    assert [len(row["gold"]) for row in rows] == [2, 2, 0, 2]
    assert rows[0]["predicted"][1] == {"start": 13, "end": 18, "label": "PERSON"}


@pytest.mark.parametrize("name", ["gold.json", "gold.jsonl"])
def test_gold_data_is_not_written_over(tmp_path: Path, name: str):
    make_pipeline(("Ada", "PERSON")).to_disk(tmp_path / "pipeline")
    _, data = write_gold(tmp_path)
    before = data.read_bytes()
    with pytest.raises(SystemExit):
        evaluate.main(tmp_path / "pipeline", [data], tmp_path / name)
    assert data.read_bytes() == before and not (tmp_path / "gold.json").exists()


@pytest.mark.parametrize("config", [{}, {"annotate": "ents"}, {"spans_key": "sc"}])
def test_strings_are_those_of_the_answers_wherever_spans_go(tmp_path: Path, config: dict):
    nlp = spacy.blank("en")
    entities = {"person": ["Ada", "Charles"], "city": ["Turin"]}
    model = {"@llm_models": "test.Gazetteer.v1", "entities": entities}
    labels = {"PERSON": "person", "CITY": "city"}
    nlp.add_pipe("universal_ner", config={"labels": labels, "model": model, **config})
    nlp.to_disk(tmp_path / "pipeline")
    _, data = write_gold(tmp_path)
    output = tmp_path / "scores.json"
    evaluate.main(tmp_path / "pipeline", [data], output)
    results = json.loads(output.read_text("utf8"))
    assert results["span"]["f1"] == 1 and results["string_set"]["f1"] == pytest.approx(1)
    passages = [(passage, "gold") for passage in read_gold(data)]
    asked = [("person", "city")] * len(passages)
    predictions = list(ask(nlp, passages, "universal_ner", asked))
    assert [len(each.mentions) for each in predictions] == [2, 2, 0, 2]
    assert predictions[3].strings == {"person": ("Ada", "Charles")}


def test_a_string_is_compared_as_it_was_answered(tmp_path: Path):
    nlp = spacy.blank("en")
    model = {"@llm_models": "test.Gazetteer.v1", "entities": {"host": ["evil"]}}
    nlp.add_pipe("universal_ner", config={"labels": ["host"], "model": model})
    nlp.to_disk(tmp_path / "pipeline")
    entities = [{"start": 6, "end": 10, "label": "host"}]
    row = {"id": "1", "text": "It is evil-doer.example.com now", "entities": entities}
    (tmp_path / "gold.jsonl").write_text(json.dumps(row), "utf8")
    evaluate.main(tmp_path / "pipeline", [tmp_path / "gold.jsonl"], tmp_path / "scores.json")
    results = json.loads((tmp_path / "scores.json").read_text("utf8"))
    assert results["string_set"]["f1"] == pytest.approx(1) and results["span"]["f1"] == 0


def test_bands_are_of_the_types_that_labels_ask_for(tmp_path: Path):
    nlp = spacy.blank("en")
    model = {"@llm_models": "test.Gazetteer.v1", "entities": {"person": ["Ada", "Charles"]}}
    labels = {"PERSON": "person", "CITY": "settlement"}
    nlp.add_pipe("universal_ner", config={"labels": labels, "model": model})
    nlp.to_disk(tmp_path / "pipeline")
    _, data = write_gold(tmp_path)
    questions = [{"type": "person", "answers": ["a", "b"]}]
    questions += [{"type": f"type {i}", "answers": ["a"]} for i in range(99)]
    conversations = tmp_path / "conversations.jsonl"
    conversations.write_text(json.dumps({"id": "1", "text": "t", "questions": questions}), "utf8")
    evaluate.main(tmp_path / "pipeline", [data], tmp_path / "scores.json", train=conversations)
    bands = json.loads((tmp_path / "scores.json").read_text("utf8"))["per_band"]
    found = {band: (s["span"]["correct"], s["span"]["gold"]) for band, s in bands.items()}
    assert found == {"top 1%": (4, 4), "not in training": (0, 2)}


def test_gold_entities_may_be_spans_and_none_are_no_gold(tmp_path: Path, capsys):
    make_pipeline(("Ada", "PERSON")).to_disk(tmp_path / "pipeline")
    spacy_file, _ = write_gold(tmp_path)
    docs = list(DocBin().from_disk(spacy_file).get_docs(spacy.blank("en").vocab))
    for doc in docs:
        doc.spans["annotation"] = list(doc.ents)
        doc.ents = []
    DocBin(docs=docs).to_disk(spacy_file)
    output = tmp_path / "scores.json"
    with pytest.raises(SystemExit):
        evaluate.main(tmp_path / "pipeline", [spacy_file], output)
    told = " ".join(capsys.readouterr().out.split())
    assert "has an entity to find" in told and "--spans-key" in told and not output.exists()
    evaluate.main(tmp_path / "pipeline", [spacy_file], output, spans_key="annotation")
    span = json.loads(output.read_text("utf8"))["span"]
    assert (span["correct"], span["gold"]) == (3, 6)


def test_pipelines_have_names_and_code_of_their_own(tmp_path: Path, capsys):
    _, data = write_gold(tmp_path)
    with pytest.raises(SystemExit):
        evaluate.main("no_such_pipeline", [data], tmp_path / "scores.json")
    assert "[E050] Can't find model 'no_such_pipeline'" in capsys.readouterr().out
    nlp = spacy.blank("en")
    nlp.to_disk(tmp_path / "pipeline")
    config = nlp.config.copy()
    config["nlp"]["pipeline"] = ["first"]
    config["components"] = {"first": {"factory": "test_first_word"}}
    config.to_disk(tmp_path / "pipeline" / "config.cfg")
    code = tmp_path / "code.py"
    code.write_text(
        "from spacy.language import Language\nfrom spacy.tokens import Span\n\n"
        "@Language.component('test_first_word')\ndef first_word(doc):\n"
        "    doc.set_ents([Span(doc, 0, 1, 'PERSON')])\n    return doc\n",
        "utf8",
    )
    output = tmp_path / "scores.json"
    app = typer.Typer()
    app.command()(evaluate.main)
    command = [tmp_path / "pipeline", data, output, "--code", code]
    done = CliRunner().invoke(app, [str(argument) for argument in command])
    assert done.exit_code == 0, done.output
    span = json.loads(output.read_text("utf8"))["span"]
    assert (span["correct"], span["predicted"]) == (2, 4)


def test_an_entity_recogniser_and_an_llm_of_others_are_scored(tmp_path: Path):
    _, data = write_gold(tmp_path)
    trained = spacy.blank("en")
    trained.add_pipe("ner")
    examples = [
        Example.from_dict(trained.make_doc(text), {"entities": entities})
        for text, entities in TEXTS
    ]
    optimizer = trained.initialize(lambda: examples)
    for _ in range(60):
        trained.update(examples, sgd=optimizer)
    prompted = spacy.blank("en")
    registry.llm_models("test.NerV3.v1", func=lambda: answer_ner_v3)
    task = {"@llm_tasks": "spacy.NER.v3", "labels": ["PERSON", "CITY"]}
    prompted.add_pipe("llm", config={"task": task, "model": {"@llm_models": "test.NerV3.v1"}})
    for name, nlp, correct in (("ner", trained, 6), ("llm", prompted, 3)):
        nlp.to_disk(tmp_path / name)
        evaluate.main(tmp_path / name, [data], tmp_path / f"{name}.json")
        results = json.loads((tmp_path / f"{name}.json").read_text("utf8"))
        assert (results["span"]["correct"], results["span"]["gold"]) == (correct, 6), name
        assert results["string_set"]["correct"] == correct


def answer_ner_v3(prompts: TypedIterable[TypedIterable[str]]) -> TypedIterable[TypedIterable[str]]:
    """Finds Ada alone, in the form that spaCy's task asks for."""
    return [["1. Ada | True | PERSON | a name" for _ in group] for group in prompts]


def test_several_files_are_several_domains(tmp_path: Path):
    make_pipeline(("Ada", "PERSON")).to_disk(tmp_path / "pipeline")
    spacy_file, jsonl_file = write_gold(tmp_path)
    jsonl_file.rename(tmp_path / "other.jsonl")
    output = tmp_path / "ruler.json"
    app = typer.Typer()
    app.command()(evaluate.main)
    command = [tmp_path / "pipeline", spacy_file, tmp_path / "other.jsonl", output, "--limit", 2]
    done = CliRunner().invoke(app, [str(argument) for argument in command])
    assert done.exit_code == 0, done.output
    results = json.loads(output.read_text("utf8"))
    assert results["texts"] == 4
    assert {name: part["span"]["gold"] for name, part in results["per_domain"].items()} == {
        "gold": 4,
        "other": 4,
    }


def test_files_of_one_name_are_domains_of_their_own(tmp_path: Path):
    make_pipeline(("Ada", "PERSON")).to_disk(tmp_path / "pipeline")
    files = []
    for domain in ("ai", "music"):
        (tmp_path / domain).mkdir()
        files.append(write_gold(tmp_path / domain)[0])
    files.append(files[0].with_name("other.spacy"))
    shutil.copy(files[0], files[2])
    output = tmp_path / "ruler.json"
    evaluate.main(tmp_path / "pipeline", files, output)
    domains = json.loads(output.read_text("utf8"))["per_domain"]
    assert {name: part["span"]["gold"] for name, part in domains.items()} == {
        "ai/gold": 6,
        "music/gold": 6,
        "other": 6,
    }
    lines = output.with_suffix(".jsonl").read_text("utf8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["domain"] for row in rows[::4]] == ["ai/gold", "music/gold", "other"]
    assert rows[4]["id"] == "music/gold-0" and len({row["id"] for row in rows}) == 12
    # The folders may be called alike too.
    same = [Path("a/x/test.spacy"), Path("b/x/test.spacy"), Path("c/y/test.spacy")]
    assert evaluate.name_domains(same) == ["a/x/test.spacy", "b/x/test.spacy", "y/test"]


@pytest.mark.parametrize("types", list(evaluate.Types))
def test_questions_without_an_answer_are_counted_and_told(tmp_path: Path, capsys, types):
    nlp = spacy.blank("en")
    model = {"@llm_models": "test.Gazetteer.v1", "entities": {"person": ["Ada"]}}
    config = {"labels": ["person", "city"], "model": model, "on_error": "record", "window": 4}
    nlp.add_pipe("universal_ner", config={**config, "stride": 0})
    nlp.to_disk(tmp_path / "pipeline")
    entities = [{"start": 0, "end": 3, "label": "person"}]
    # The second has two windows that there is no answer about.
    texts = ["Ada met Charles.", "Ada is BROKEN .", "Ada is BROKEN . She is BROKEN ."]
    rows = [{"id": str(i), "text": text, "entities": entities} for i, text in enumerate(texts)]
    data = tmp_path / "gold.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)), "utf8")
    output = tmp_path / "scores.json"
    questions = [{"type": "city", "answers": ["x"]}]
    train = tmp_path / "conversations.jsonl"
    train.write_text(json.dumps({"id": "1", "text": "x", "questions": questions}), "utf8")
    evaluate.main(tmp_path / "pipeline", [data], output, types, train=train)
    results = json.loads(output.read_text("utf8"))
    assert (results["unanswered"], results["span"]["correct"], results["span"]["gold"]) == (4, 1, 3)
    told = " ".join(capsys.readouterr().out.split())
    assert "4 questions have no answer" in told and "such as: it is broken" in told
    rows = [json.loads(line) for line in output.with_suffix(".jsonl").read_text().splitlines()]
    assert ["unanswered" in row for row in rows] == [False, True, True]
    assert rows[1]["unanswered"] == {"person": "it is broken", "city": "it is broken"}


@pytest.mark.parametrize("types", list(evaluate.Types))
def test_the_time_that_weights_take_to_load_is_not_counted(tmp_path: Path, monkeypatch, types):
    model = Lookup({"person": '["Ada"]'})
    make_universal_ner(model, ["person"]).to_disk(tmp_path / "pipeline")
    _, data = write_gold(tmp_path)
    # A clock that ticks with each question: the first loads the weights
    clock = SimpleNamespace(perf_counter=lambda: float(model.asked.total()))
    monkeypatch.setattr(evaluate, "time", clock)
    evaluate.main(tmp_path / "pipeline", [data], tmp_path / "scores.json", types)
    results = json.loads((tmp_path / "scores.json").read_text("utf8"))
    assert results["seconds"] == model.asked.total() - 1 > 0


def test_figures_of_nuner_are_those_of_spacy_evaluate(tmp_path: Path):
    training = tmp_path / "nuner"
    nuner = make_pipeline(("Ada", "PERSON"), ("Turin", "CITY"))
    few_shot = training / "nuner" / "few-shot"
    for nlp, path in (
        (nuner, training / "nuner/full/model-best"),
        (nuner, training / "nuner/full/model-last"),
        (make_pipeline(("Ada", "PERSON")), few_shot / "k8_seed0/model-last"),
        (make_pipeline(("Ada", "CITY")), few_shot / "k8_seed1/model-last"),
    ):
        path.mkdir(parents=True)
        nlp.to_disk(path)
    data, _ = write_gold(tmp_path)
    output = tmp_path / "nuner.json"
    evaluate_nuner.main(training, data, output)
    results = json.loads(output.read_text("utf8"))
    few, other, full = results["runs"]
    assert [(r["encoder"], r["k"], r["seed"]) for r in results["runs"]] == [
        ("nuner", 8, 0),
        ("nuner", 8, 1),
        ("nuner", None, None),
    ]
    assert (few["ents_p"], few["ents_r"], other["ents_f"]) == (1, 0.5, 0)
    expected = spacy_evaluate(full["pipeline"], data, tmp_path / "spacy.json")
    for score in ("ents_p", "ents_r", "ents_f", "ents_per_type"):
        assert full[score] == expected[score]
    summary = {row["k"]: row["ents_f"] for row in results["summary"]}
    assert summary[8] == {"mean": pytest.approx(1 / 3), "sd": pytest.approx(0.4714045)}
    assert summary[None] == {"mean": full["ents_f"], "sd": 0}
    assert len((tmp_path / "nuner.nuner.jsonl").read_text("utf8").splitlines()) == 4


def test_the_best_pipeline_of_a_run_counts_or_the_last(tmp_path: Path):
    for path in ("a/full/model-best", "a/full/model-last", "b/few-shot/k4_seed2/model-last"):
        (tmp_path / path).mkdir(parents=True)
    found = [path.relative_to(tmp_path) for path in find_pipelines(tmp_path)]
    assert [describe(path) for path in found] == [("a", None, None), ("b", 4, 2)]


def test_a_single_run_has_no_deviation():
    run = {"encoder": "a", "k": None, "sentences": None, "ents_p": 1, "ents_r": 1, "ents_f": 0.5}
    (row,) = summarize([run])
    assert row["ents_f"] == {"mean": 0.5, "sd": 0}
    assert row["sentences"] is None


class Lookup:
    """A language model that knows the answer to each question, whatever the text."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers
        self.asked: Counter[str] = Counter()

    def __call__(self, prompts: Iterable[Iterable[str]]) -> Iterable[Iterable[str]]:
        return [[self.look_up(prompt) for prompt in group] for group in prompts]

    def look_up(self, prompt: str) -> str:
        type_ = prompt.split("What describes ")[1].split(" in the text?")[0]
        self.asked[type_] += 1
        return self.answers.get(type_, "[]")


def make_universal_ner(model: Lookup, labels: list[str]) -> Language:
    nlp = spacy.blank("en")
    registry.llm_models("test.Lookup.v1", func=lambda: model)
    config = {"labels": labels, "model": {"@llm_models": "test.Lookup.v1"}}
    nlp.add_pipe("universal_ner", config=config)
    return nlp


PASSAGE = Passage("1", "Ada met Ada in Turin.", (Mention(0, 3, "person"), Mention(8, 11, "person")))


def test_answers_that_are_not_in_the_text_count_against_string_sets():
    model = Lookup({"person": '["Ada", "Grace"]', "city": '["Turin"]'})
    nlp = make_universal_ner(model, ["person"])
    (prediction,) = predict(nlp, [(PASSAGE, "")], "universal_ner")
    assert prediction.strings == {"person": ("Ada", "Grace")}
    results = make_results([prediction])
    assert results["span"]["f1"] == 1
    assert results["string_set"]["precision"] == pytest.approx(1 / 2)
    assert results["string_set"]["recall"] == pytest.approx(1)


def test_each_text_is_asked_about_its_own_types():
    model = Lookup({"person": '["Ada"]', "name": '["Ada"]', "city": '["Turin"]'})
    nlp = make_universal_ner(model, ["country"])
    other = Passage("2", "Ada.", (Mention(0, 3, "name"),))
    asked = [("person", "city"), ("name", "river")]
    first, second = ask(nlp, [(PASSAGE, ""), (other, "")], "universal_ner", asked)
    assert model.asked == {"person": 1, "city": 1, "name": 1, "river": 1}
    assert set(first.mentions) == {*PASSAGE.mentions, Mention(15, 20, "city")}
    assert second.mentions == other.mentions
    assert make_results([first, second])["span"]["precision"] == 0.75


def test_overlapping_types_are_all_kept_when_types_are_asked():
    model = Lookup({"person": '["Ada"]', "name": '["Ada"]'})
    nlp = make_universal_ner(model, ["person"])
    (prediction,) = ask(nlp, [(PASSAGE, "")], "universal_ner", [("person", "name")])
    assert len(prediction.mentions) == 4


def test_absent_types_are_as_many_as_the_texts_own(tmp_path: Path):
    conversations = tmp_path / "conversations.jsonl"
    questions = [
        {"type": "person", "answers": ["a", "b"]},
        *({"type": f"type {i}", "answers": ["a"]} for i in range(9)),
        {"type": "never answered", "answers": []},
    ]
    conversations.write_text(json.dumps({"id": "1", "text": "t", "questions": questions}), "utf8")
    frequencies = count_types(conversations)
    assert frequencies["person"] == 2
    assert "never answered" not in frequencies
    mentions = (Mention(0, 1, "x"), Mention(1, 2, "x"), Mention(0, 2, "type 3"))
    passages = [Passage(str(i), "text", mentions) for i in range(50)]
    drawn = draw_types(passages, frequencies, seed=1)
    assert all(types[:2] == ("type 3", "x") and len(set(types)) == 4 for types in drawn)
    assert drawn == draw_types(passages, frequencies, seed=1)
    assert drawn != draw_types(passages, frequencies, seed=2)
    assert draw_types([Passage("1", "text")], frequencies, seed=1) == [()]


def test_gold_files_are_read_alike(tmp_path: Path):
    from_spacy, from_jsonl = (list(read_gold(path)) for path in write_gold(tmp_path))
    assert [(p.text, p.mentions) for p in from_spacy] == [(p.text, p.mentions) for p in from_jsonl]
    assert [passage.id for passage in from_spacy] == [f"gold-{i}" for i in range(4)]
    assert len(list(read_gold(tmp_path / "gold.jsonl", limit=3))) == 3
