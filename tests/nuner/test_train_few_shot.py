"""The few-shot protocol: every encoder on every sample, without a choice among checkpoints."""

import json
import shutil

import pytest
import spacy
from spacy.tokens import DocBin
from typer.testing import CliRunner

from scripts import evaluate_nuner, train_few_shot
from spacy_universalner.evaluation.provenance import checksum, folder_checksums
from tests.nuner.test_cli import ROOT
from tests.nuner.test_component import SENTENCES, make_examples
from tests.tiny import make_bert

SAMPLE = "gold_k1_seed0.spacy"


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
    folders = {str(path.relative_to(tmp_path / "out")) for path in tmp_path.glob("out/*/*/*/*/")}
    assert folders == {
        f"{name}/few-shot/k1_seed{seed}/model-last" for name in ("one", "two") for seed in range(2)
    }
    made_from = tmp_path / "out/one/few-shot/k1_seed1" / train_few_shot.MADE_FROM
    made_from = json.loads(made_from.read_text("utf8"))
    sample, config = samples / "gold_k1_seed1.spacy", ROOT / "configs" / "nuner.cfg"
    assert made_from["data"] == {str(path): checksum(path) for path in (config, sample)}
    assert made_from["weights"] == folder_checksums(tiny_bert)
    assert (made_from["encoder"], made_from["epochs"]) == (str(tiny_bert), 5)
    first = spacy.load(tmp_path / "out/one/few-shot/k1_seed0/model-last")
    again = spacy.load(tmp_path / "out/two/few-shot/k1_seed0/model-last")
    other = spacy.load(tmp_path / "out/two/few-shot/k1_seed1/model-last")
    weights = [nlp.get_pipe("nuner").to_bytes(exclude=["vocab"]) for nlp in (first, again, other)]
    assert weights[0] == weights[1] != weights[2]
    # 4 sentences in batches of 2, 5 times.
    assert first.config["training"]["optimizer"]["learn_rate"]["total_steps"] == 10
    assert first.config["training"]["max_epochs"] == 5
    assert first.config["components"]["nuner"]["model"]["scheme"] == "bio"


def test_runs_from_earlier_weights_are_left_out(app, samples, tiny_bert, tmp_path, capsys):
    encoder, training = tmp_path / "encoder", tmp_path / "out"
    shutil.copytree(tiny_bert, encoder)
    for k in (2, 4):
        shutil.copy(samples / SAMPLE, samples / f"gold_k{k}_seed0.spacy")

    def train(k):
        arguments = [ROOT / "configs" / "nuner.cfg", training, "--samples", samples, "--k", k]
        arguments += ["--encoder", f"one={encoder}", "--seeds", 1, "--epochs", 1, "--jobs", 1]
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
        return training / "one" / "few-shot" / f"k{k}_seed0"

    def evaluate():
        output = tmp_path / "nuner.json"
        evaluate_nuner.main(training, samples / SAMPLE, output)
        results = json.loads(output.read_text("utf8"))
        return results, " ".join(capsys.readouterr().out.split())

    first = train(1)
    full = shutil.copytree(first / "model-last", training / "one" / "full" / "model-best")
    results, told = evaluate()
    assert [row["k"] for row in results["summary"]] == [1, None]
    assert results["left_out"] == [] and "Left out" not in told
    whole = results["runs"][1]["made_from"]
    assert whole["data"] == {str(samples / SAMPLE): checksum(samples / SAMPLE)}
    assert whole["weights"] == folder_checksums(encoder)
    make_bert(encoder, seed=1)
    second = train(2)
    # The run on all data is taken to be from what lies there now.
    results, told = evaluate()
    assert [row["k"] for row in results["summary"]] == [2, None]
    assert results["left_out"] == [str(first / "model-last")] and "Left out" in told
    # Without it, and without a folder, the newest run of all counts.
    shutil.rmtree(full)
    shutil.rmtree(encoder)
    for run, year in ((first, 2001), (second, 2000)):
        path = run / train_few_shot.MADE_FROM
        path.write_text(json.dumps(json.loads(path.read_text()) | {"created": f"{year}"}))
    results, told = evaluate()
    assert results["left_out"] == [str(second / "model-last")]
    # Earlier versions have not written it down.
    (second / train_few_shot.MADE_FROM).unlink()
    results, told = evaluate()
    assert [row["k"] for row in results["summary"]] == [1, 2]
    assert "which weights 1 runs were trained from" in told


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
