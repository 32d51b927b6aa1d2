"""The few-shot script on a file of documents."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import typer
from click.testing import Result
from spacy.tokens import Doc, DocBin, Span
from spacy.vocab import Vocab
from typer.testing import CliRunner

from scripts.sample_few_shot import main

VOCAB = Vocab()


def sentence(i: int) -> Doc:
    doc = Doc(VOCAB, words=["Ada", "Lovelace", "saw", "Turin", str(i)])
    doc.set_ents([Span(doc, 0, 2, "PERSON"), *([Span(doc, 3, 4, "CITY")] if i % 2 else [])])
    return doc


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "gold_train.spacy"
    DocBin(docs=[sentence(i) for i in range(40)]).to_disk(path)
    return path


def run(*args: object) -> Result:
    app = typer.Typer()
    app.command()(main)
    return CliRunner().invoke(app, [str(argument) for argument in args])


def test_samples_and_their_indices_are_written(data: Path, tmp_path: Path):
    done = run(data, tmp_path / "few", "--k", "2,4", "--seeds", 2)
    assert done.exit_code == 0, done.output
    names = {path.name for path in (tmp_path / "few").iterdir()}
    assert names == {
        f"gold_k{k}_seed{seed}.{ending}"
        for k in (2, 4)
        for seed in (0, 1)
        for ending in ("spacy", "json")
    }
    drawn = json.loads((tmp_path / "few/gold_k4_seed1.json").read_text("utf8"))
    docs = list(DocBin().from_disk(tmp_path / "few/gold_k4_seed1.spacy").get_docs(VOCAB))
    assert [int(doc[4].text) for doc in docs] == drawn["indices"]
    counts = Counter(ent.label_ for doc in docs for ent in doc.ents)
    assert drawn["counts"] == counts
    assert all(4 <= n <= 8 for n in counts.values())


def test_words_are_another_unit(data: Path, tmp_path: Path):
    done = run(data, tmp_path, "--k", 6, "--seeds", 1, "--unit", "words")
    assert done.exit_code == 1  # 6 words of CITY need 6 sentences, which have 12 of PERSON
    assert "No sample with 6 to 6 words" in " ".join(done.output.split())


@pytest.mark.parametrize("k", ["0", "2,", "two", "-1"])
def test_sizes_are_whole_numbers(data: Path, tmp_path: Path, k: str):
    done = run(data, tmp_path, f"--k={k}")
    assert done.exit_code == 2
    assert f"--k {k}: expected whole numbers" in " ".join(done.output.split())


def test_too_large_k_is_one_clear_message(data: Path, tmp_path: Path):
    done = run(data, tmp_path, "--k", 21)
    assert done.exit_code == 1
    assert "fewer of: CITY (20)" in " ".join(done.output.split())
