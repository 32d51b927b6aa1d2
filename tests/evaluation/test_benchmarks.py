"""Public benchmarks: their labels in words, and the zero-shot table."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
import spacy

from scripts import evaluate_zero_shot
from spacy_universalner.evaluation.benchmarks import BENCHMARKS, ZERO_SHOT, word_label, word_labels
from tests.universal_ner import gazetteer


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("PER", "person"),
        ("organisation", "organization"),
        ("programlang", "program language"),
        ("Restaurant_Name", "restaurant name"),
        ("RATINGS_AVERAGE", "average rating"),
        ("cell_line", "cell line"),
        ("misc", None),
        ("Else", None),
    ],
)
def test_labels_are_asked_in_words(label: str, words: str | None):
    assert word_label(label) == words


def test_labels_that_name_no_type_are_not_asked():
    assert word_labels({"misc", "musicalartist", "band"}) == {
        "band": "band",
        "musicalartist": "musical artist",
    }


def test_labels_are_worded_as_in_the_published_records():
    labels = {"Restaurant_Name", "Hours"}
    assert BENCHMARKS["mit_restaurant"].words(labels) == {
        "Hours": "Hours",
        "Restaurant_Name": "Restaurant Name",
    }
    assert BENCHMARKS["crossner_ai"].words({"programlang"}) == {"programlang": "program language"}


@pytest.mark.parametrize(
    ("system", "mean"), [("UniNER-7B", 53.4), ("UniNER-13B", 55.6), ("ChatGPT", 47.5)]
)
def test_published_figures_have_their_published_mean(system: str, mean: float):
    figures = [BENCHMARKS[key].published[system] for key in ZERO_SHOT]
    assert statistics.mean(figures) == pytest.approx(mean, abs=0.06)


def test_the_table_has_ours_and_the_published_figures(tmp_path: Path, tiny_llama: Path):
    nlp = spacy.blank("en")
    model = {"@llm_models": "spacy-universalner.HF.v1", "name": str(tiny_llama)}
    config = {"labels": ["person"], "model": model, "max_new_tokens": 8}
    nlp.add_pipe("universal_ner", config=config)
    nlp.to_disk(tmp_path / "pipeline")
    sentence = "Ada\tB-researcher\nused\tO\nLisp\tB-programlang\nin\tO\nTurin\tB-misc\n\n"
    # All labels of the set are asked for, also those of sentences beyond the limit.
    last = "Bonn\tB-country\n\n"
    (tmp_path / "crossner_ai_test.txt").write_text(sentence * 3 + last, "utf8")
    evaluate_zero_shot.main(tmp_path / "pipeline", tmp_path, tmp_path / "out", limit=2)
    report = json.loads((tmp_path / "out/zero_shot.json").read_text("utf8"))
    (key,) = report["benchmarks"]
    assert report["seed"] == 0
    assert list(report["provenance"]["data"]) == [str(tmp_path / "crossner_ai_test.txt")]
    assert report["config"]["nlp"]["pipeline"] == ["universal_ner"]
    result = report["benchmarks"][key]
    assert result["labels"] == {
        "country": "country",
        "programlang": "program language",
        "researcher": "researcher",
    }
    assert (result["texts"], result["span"]["gold"]) == (2, 4)
    table = (tmp_path / "out/zero_shot.md").read_text("utf8").splitlines()
    assert table[0] == "| Model | Metric | CrossNER AI | Mean |"
    assert table[4] == "| UniNER-7B (published) | string sets | 53.5 | 53.5 |"
    assert len((tmp_path / "out/crossner_ai.jsonl").read_text("utf8").splitlines()) == 2


def test_unanswered_questions_are_counted_for_each_set(tmp_path: Path, capsys):
    gazetteer.save_pipeline(tmp_path / "pipeline", {"researcher": ["Ada"]})
    sentences = "Ada\tB-researcher\nran\tO\n\nAda\tB-researcher\nis\tO\nBROKEN\tO\n\n"
    (tmp_path / "crossner_ai_test.txt").write_text(sentences, "utf8")
    evaluate_zero_shot.main(tmp_path / "pipeline", tmp_path, tmp_path / "out")
    report = json.loads((tmp_path / "out/zero_shot.json").read_text("utf8"))
    result = report["benchmarks"]["crossner_ai"]
    assert (result["unanswered"], result["span"]["correct"], result["span"]["gold"]) == (1, 1, 2)
    told = "".join(capsys.readouterr().out.split())
    assert "crossner_ai_test.txt:1questionshavenoanswer" in told and "itisbroken" in told


def test_a_missing_data_set_is_named(tmp_path: Path):
    with pytest.raises(SystemExit):
        evaluate_zero_shot.main(tmp_path, tmp_path, tmp_path / "out")
    with pytest.raises(SystemExit):
        evaluate_zero_shot.main(tmp_path, tmp_path, tmp_path / "out", benchmark=["crossner_law"])


def test_an_empty_data_set_and_another_pipeline_are_named(tmp_path: Path, capsys):
    spacy.blank("en").to_disk(tmp_path / "pipeline")
    (tmp_path / "mit_movie_test.txt").touch()
    with pytest.raises(SystemExit):
        evaluate_zero_shot.main(tmp_path / "pipeline", tmp_path, tmp_path / "out")
    assert "has no 'universal_ner'" in " ".join(capsys.readouterr().out.split())
    nlp = spacy.blank("en")
    nlp.add_pipe("universal_ner", config={"labels": []})
    nlp.to_disk(tmp_path / "pipeline")
    with pytest.raises(SystemExit):
        evaluate_zero_shot.main(tmp_path / "pipeline", tmp_path, tmp_path / "out")
    assert "has no sentence" in " ".join(capsys.readouterr().out.split())
