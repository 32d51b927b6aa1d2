"""A language model that is shown a few-shot sample: real files, spaCy's commands, a real server."""

from __future__ import annotations

from pathlib import Path

import pytest
import spacy
import srsly
from spacy.tokens import Doc, DocBin, Span
from spacy.vocab import Vocab

from tests import scripted_server
from tests.evaluation.project import run
from tests.nuner.test_cli import cli

CONFIG = Path(__file__).parents[2] / "configs" / "llm_ner_fewshot.cfg"


class EchoScript(dict):
    """Whatever is asked, Turin is a city, and the first word no entity."""

    def __missing__(self, prompt: str) -> list[scripted_server.Behaviour]:
        first = prompt.rpartition("Paragraph: ")[2].split()[0]
        lines = [f"1. {first} | False | ==NONE== | is a word", "2. Turin | True | CITY | is a city"]
        return [scripted_server.answer("\n".join(lines))]


def sentence(i: int) -> Doc:
    doc = Doc(Vocab(), words=["Ada", "Lovelace", "saw", "Turin", str(i)])
    doc.set_ents([Span(doc, 0, 2, "PERSON"), Span(doc, 3, 4, "CITY")][i % 2 :])
    return doc


@pytest.fixture
def sample(tmp_path, monkeypatch):
    """The indices of a sample of exactly two words of each type."""
    monkeypatch.setattr("sys.argv", [])
    data = tmp_path / "gold_train.spacy"
    DocBin(docs=[sentence(i) for i in range(8)]).to_disk(data)
    run(
        f"python -m scripts.sample_few_shot {data} {tmp_path} --k 2 --seeds 1 --unit words "
        "--max-passes 100"
    )
    return tmp_path / "gold_kw2_seed0.json"


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".yml"])
def test_the_sample_is_what_the_model_is_shown(sample, tmp_path, suffix, capsys):
    examples = tmp_path / f"examples{suffix}"
    run(f"python -m scripts.llm_examples {sample} {examples}")
    labels = capsys.readouterr().out.splitlines()[-1]
    assert labels == "CITY,PERSON"
    with scripted_server.run(EchoScript()) as server:
        cli(
            *("assemble", CONFIG, tmp_path / "llm", "--paths.examples", examples),
            *("--components.llm.task.labels", labels),
            *("--components.llm.model.base_url", server.base_url),
        )
        nlp = spacy.load(tmp_path / "llm")
        docs = list(nlp.pipe(["Mary saw Turin.", "Nothing happened."]))
        assert [[(ent.text, ent.label_) for ent in doc.ents] for doc in docs] == [
            [("Turin", "CITY")],
            [],
        ]
        prompt = server.requests[0].prompt
        drawn = srsly.read_json(sample)
        for i in drawn["indices"]:
            shown = "1. Turin | True | CITY | is a CITY"
            if i % 2 == 0:
                shown = "1. Ada Lovelace | True | PERSON | is a PERSON\n2" + shown[1:]
            assert f"Paragraph: Ada Lovelace saw Turin {i} \nAnswer:\n{shown}\n" in prompt
        assert "one of the following labels: CITY, PERSON." in prompt
        DocBin(docs=[sentence(1)]).to_disk(tmp_path / "test.spacy")
        cli("evaluate", tmp_path / "llm", tmp_path / "test.spacy", "-o", tmp_path / "scores.json")
    assert srsly.read_json(tmp_path / "scores.json")["ents_f"] == 1.0


def test_other_data_than_was_drawn_from_are_refused(sample, tmp_path, capsys):
    other = tmp_path / "other.spacy"
    DocBin(docs=[sentence(0)]).to_disk(other)
    run(f"python -m scripts.llm_examples {sample} {tmp_path / 'a.jsonl'} --data {other}", code=1)
    assert "is not the file" in " ".join(capsys.readouterr().out.split())
    run(f"python -m scripts.llm_examples {sample} {tmp_path / 'a.txt'}", code=1)
    assert "Expected .jsonl, .json, .yml" in " ".join(capsys.readouterr().out.split())
    before = sample.read_bytes()
    run(f"python -m scripts.llm_examples {sample} {sample}", code=1)
    assert sample.read_bytes() == before
    srsly.write_json(tmp_path / "b.json", {"other": 1})
    run(f"python -m scripts.llm_examples {tmp_path / 'b.json'} {tmp_path / 'c.json'}", code=1)
    assert "is no sample" in capsys.readouterr().out
    assert not (tmp_path / "a.jsonl").exists()
