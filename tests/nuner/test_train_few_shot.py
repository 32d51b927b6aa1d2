"""The few-shot protocol: every encoder on every sample, without a choice among checkpoints."""

import pytest
import spacy
from spacy.tokens import DocBin
from typer.testing import CliRunner

from scripts import train_few_shot
from tests.nuner.test_cli import ROOT
from tests.nuner.test_component import SENTENCES, make_examples


@pytest.fixture(scope="module")
def app():
    return train_few_shot.app


@pytest.fixture
def samples(tmp_path):
    nlp = spacy.blank("en")
    for seed in range(2):
        docs = [example.reference for example in make_examples(nlp, SENTENCES[seed:])]
        DocBin(docs=docs).to_disk(tmp_path / f"gold_k1_seed{seed}.spacy")
    return tmp_path


def test_every_encoder_is_trained_on_every_sample(app, samples, tiny_bert, tmp_path):
    arguments = [ROOT / "configs" / "nuner.cfg", tmp_path / "out", "--samples", samples]
    arguments += ["--encoder", f"one={tiny_bert}", "--encoder", f"two={tiny_bert}"]
    arguments += ["--k", 1, "--seeds", 2, "--epochs", 5, "--batch-size", 2]
    arguments += ["--components.nuner.model.scheme", "bio", "--jobs", 1]
    for earlier in ("k1_seed7", "k10_seed0"):  # one of another number of samples, one of another k
        (tmp_path / "out/one/few-shot" / earlier / "model-last").mkdir(parents=True)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    (tmp_path / "out/one/few-shot/k10_seed0/model-last").rmdir()
    folders = {str(path.relative_to(tmp_path / "out")) for path in tmp_path.glob("out/*/*/*/*")}
    assert folders == {
        f"{name}/few-shot/k1_seed{seed}/model-last" for name in ("one", "two") for seed in range(2)
    }
    first = spacy.load(tmp_path / "out/one/few-shot/k1_seed0/model-last")
    again = spacy.load(tmp_path / "out/two/few-shot/k1_seed0/model-last")
    other = spacy.load(tmp_path / "out/two/few-shot/k1_seed1/model-last")
    weights = [nlp.get_pipe("nuner").to_bytes(exclude=["vocab"]) for nlp in (first, again, other)]
    assert weights[0] == weights[1] != weights[2]
    # 4 sentences in batches of 2, 5 times.
    assert first.config["training"]["optimizer"]["learn_rate"]["total_steps"] == 10
    assert first.config["training"]["max_epochs"] == 5
    assert first.config["components"]["nuner"]["model"]["scheme"] == "bio"


def test_a_missing_sample_is_named_before_any_training(app, samples, tmp_path):
    arguments = [ROOT / "configs" / "nuner.cfg", tmp_path / "out", "--samples", samples]
    arguments += ["--encoder", "one=embedded", "--k", 1, "--seeds", 3]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 1
    assert "gold_k1_seed2.spacy" in "".join(result.output.split())


def test_an_encoder_needs_a_name(app, samples, tmp_path):
    config = str(ROOT / "configs" / "nuner.cfg")
    arguments = [config, str(tmp_path), "--samples", str(samples), "--encoder", "embedded"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "'embedded', expected NAME=ENCODER" in result.output
