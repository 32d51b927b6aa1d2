"""Pipelines with real models on disk, in bytes, in wheels and under spaCy's commands."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import spacy
import torch
from spacy.cli import app
from spacy.cli.find_threshold import find_threshold
from spacy.tokens import DocBin
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from spacy_universalner.universal_ner.models import weights
from spacy_universalner.universal_ner.models.weights import load_model
from tests.universal_ner import gazetteer  # noqa: F401  (registers its models)

ROOT = Path(__file__).parents[2]
TEXTS = ["Barack Obama was born in Hawaii.", "", "Marie Curie won the prize in Paris."]


def make_nlp(folder: Path, **config):
    nlp = spacy.blank("en")
    model = {"@llm_models": "spacy-universalner.HF.v1", "name": str(folder)}
    config = {"labels": {"PER": "person"}, "max_new_tokens": 8, **config}
    nlp.add_pipe("universal_ner", config={"model": model, "save_io": True, **config})
    return nlp


def answers(nlp) -> list[list[str]]:
    """What the model says: random weights find no entities, but they are never at a loss."""
    records = [doc.user_data["universal_ner"] for doc in nlp.pipe(TEXTS)]
    return [[io["answer"] for io in record["io"]] for record in records]


@pytest.fixture
def model(tiny_llama, tmp_path) -> Path:
    """A folder of weights that a test may delete."""
    return Path(shutil.copytree(tiny_llama, tmp_path / "weights"))


def test_weights_travel_with_the_pipeline(model, tmp_path):
    nlp = make_nlp(model)
    expected = answers(nlp)
    assert [len(each) for each in expected] == [1, 0, 1]
    nlp.to_disk(tmp_path / "pipeline")
    saved = nlp.to_bytes()
    shutil.rmtree(model)
    assert answers(spacy.load(tmp_path / "pipeline")) == expected
    copy = spacy.blank("en").from_config(nlp.config).from_bytes(saved)
    assert answers(copy) == expected
    # A pipeline that was loaded can be saved again, to the same place too
    spacy.load(tmp_path / "pipeline").to_disk(tmp_path / "again")
    loaded = spacy.load(tmp_path / "pipeline")
    loaded.to_disk(tmp_path / "pipeline")
    assert answers(loaded) == answers(spacy.load(tmp_path / "again")) == expected


def test_saving_in_the_place_of_other_weights_leaves_nothing_of_them(model, tmp_path):
    make_nlp(model).to_disk(tmp_path / "pipeline")
    other = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += torch.rand_like(parameter)
    other.save_pretrained(tmp_path / "other", max_shard_size="50KB")
    AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path / "other")
    nlp = make_nlp(tmp_path / "other")
    nlp.to_disk(tmp_path / "pipeline")
    saved = tmp_path / "pipeline" / "universal_ner" / "model"
    assert not (saved / "model.safetensors").exists()
    loaded = load_model(spacy.load(tmp_path / "pipeline").get_pipe("universal_ner").model.source)
    assert all(map(torch.equal, loaded.parameters(), other.parameters()))
    assert sorted(path.name for path in saved.parent.iterdir()) == ["cfg", "model"]


def test_a_merged_adapter_needs_no_package_any_more(model, tmp_path, monkeypatch):
    make_nlp(model).to_disk(tmp_path / "pipeline")
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    config = {"components": {"universal_ner": {"model": {"adapter": "gone/adapter"}}}}
    nlp = spacy.load(tmp_path / "pipeline", config=config)
    assert [len(each) for each in answers(nlp)] == [1, 0, 1]
    named = make_nlp(model)
    named.get_pipe("universal_ner").model.source = weights.Source(
        str(model), adapter="gone/adapter"
    )
    with pytest.raises(ImportError, match=r"gone/adapter.*pip install peft"):
        named("Some text.")


def test_the_order_of_labels_is_kept(model, tmp_path):
    nlp = make_nlp(model, labels=["a", "b", "c"])
    nlp.get_pipe("universal_ner").initialize(lambda: (), labels=["c", "b", "a"])
    nlp.to_disk(tmp_path / "pipeline")
    assert spacy.load(tmp_path / "pipeline").get_pipe("universal_ner").labels == ("c", "b", "a")


def test_labels_that_a_config_cannot_hold_are_saved_all_the_same(model, tmp_path):
    labels = {"ORG:public": "organization", "A=B": "city", "#c": "year", "[d]": "person"}
    nlp = make_nlp(model, labels=labels)
    nlp.to_disk(tmp_path / "pipeline")
    for loaded in (
        spacy.load(tmp_path / "pipeline"),
        spacy.blank("en").from_config(nlp.config).from_bytes(nlp.to_bytes()),
    ):
        assert loaded.get_pipe("universal_ner").label_data == labels


def test_threads_share_a_model(model):
    nlp = make_nlp(model)
    texts = [f"{text} {i}" for i in range(6) for text in TEXTS if text]
    expected = [nlp(text).user_data for text in texts]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda text: nlp(text).user_data, texts)) == expected


def test_copied_weights_keep_their_identity(model, tmp_path):
    nlp = make_nlp(model)
    nlp.to_disk(tmp_path / "pipeline")
    loaded = spacy.load(tmp_path / "pipeline")
    copy = spacy.blank("en").from_config(nlp.config).from_bytes(nlp.to_bytes())
    identities = {each.get_pipe("universal_ner").model.identity for each in (nlp, loaded, copy)}
    assert len(identities) == 1


def test_a_hub_id_stays_an_id(tmp_path):
    nlp = spacy.blank("en")
    nlp.add_pipe("universal_ner")
    nlp.to_disk(tmp_path)
    assert not (tmp_path / "universal_ner" / "model").exists()
    assert spacy.load(tmp_path).get_pipe("universal_ner").model.source.revision == "main"
    assert spacy.blank("en").from_config(nlp.config).from_bytes(nlp.to_bytes()).pipe_names


def test_weights_are_loaded_lazily_and_once(model, tmp_path):
    make_nlp(model).to_disk(tmp_path / "pipeline")
    one, two = (spacy.load(tmp_path / "pipeline").get_pipe("universal_ner").model for _ in "12")
    assert load_model(one.source) is load_model(two.source)
    (tmp_path / "pipeline" / "universal_ner" / "model" / "model.safetensors").unlink()
    nlp = spacy.load(tmp_path / "pipeline")
    assert nlp("").text == ""
    with pytest.raises(OSError, match="Could not load"):
        nlp("Some text.")


def test_what_was_changed_is_saved_and_the_rest_is_the_configs(model, tmp_path):
    nlp = make_nlp(model)
    pipe = nlp.get_pipe("universal_ner")
    pipe.add_label("LOC", "location")
    nlp.to_disk(tmp_path)
    loaded = spacy.load(tmp_path, config={"components": {"universal_ner": {"threshold": 0.5}}})
    loaded = loaded.get_pipe("universal_ner")
    assert loaded.label_data == {"PER": "person", "LOC": "location"}
    assert loaded.cfg["threshold"] == 0.5
    pipe.cfg = {**pipe.cfg, "threshold": 0.25, "label_thresholds": {"LOC": 0.5}}
    nlp.to_disk(tmp_path)
    assert spacy.load(tmp_path).get_pipe("universal_ner").cfg == pipe.cfg
    copy = spacy.blank("en").from_config(nlp.config).from_bytes(nlp.to_bytes(exclude=["model"]))
    assert copy.get_pipe("universal_ner").cfg == pipe.cfg


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gpt2", "tiny_neox", "tiny_bert_decoder"])
def test_any_family_of_models(family, request, tmp_path):
    nlp = make_nlp(request.getfixturevalue(family))
    nlp.to_disk(tmp_path)
    assert answers(spacy.load(tmp_path)) == answers(nlp)


def test_two_processes_answer_as_one(model):
    """In a process of its own, since torch must have started its threads before the fork."""
    code = (
        "import sys, torch\n"
        "from tests.universal_ner.test_serialization import TEXTS, make_nlp\n"
        "torch.set_num_threads(2)\n"
        "nlp = make_nlp(sys.argv[1])\n"
        "def run(**settings):\n"
        "    docs = nlp.pipe(TEXTS * 2, **settings)\n"
        "    return [list(doc.user_data['universal_ner']['io']) for doc in docs]\n"
        "torch.ones(512, 512) @ torch.ones(512, 512)\n"
        "assert run() == run(n_process=2, batch_size=2)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", code, str(model)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=1200)


# -- spaCy's commands


def run(*args) -> str:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def gold(tmp_path_factory) -> Path:
    doc = spacy.blank("en")("Ana met Bo in Genoa.")
    doc.ents = [doc.char_span(0, 3, "person"), doc.char_span(14, 19, "location")]
    path = tmp_path_factory.mktemp("gold") / "gold.spacy"
    DocBin(docs=[doc]).to_disk(path)
    return path


def test_commands(model, gold, tmp_path):
    pipeline = tmp_path / "pipeline"
    config = ROOT / "configs" / "test" / "universal_ner.cfg"
    run("assemble", config, pipeline, "--components.universal_ner.model.name", model)
    shutil.rmtree(model)
    paths = ("--paths.train", gold, "--paths.dev", gold)
    run("debug", "config", pipeline / "config.cfg", *paths)
    run("evaluate", pipeline, gold, "--output", tmp_path / "metrics.json")
    assert json.loads((tmp_path / "metrics.json").read_text())["ents_f"] == 0.0
    run("benchmark", "speed", pipeline, gold, "--batches", "30", "--batch-size", "1")
    run("find-threshold", pipeline, gold, "universal_ner", "threshold", "ents_f", "-n", "2")
    labels = spacy.util.load_config(config)["components"]["universal_ner"]["labels"]
    assert spacy.load(pipeline).get_pipe("universal_ner").label_data == labels


@pytest.mark.parametrize("key", ["threshold", "label_thresholds.person"])
def test_thresholds_are_tuned_by_find_threshold(key, gold, tmp_path):
    nlp = spacy.blank("en")
    # A string of n characters has the score 1 - 1/n: Ana 2/3, Bo 1/2 (wrong), Genoa 4/5
    entities = {"person": ["Ana", "Bo"], "location": ["Genoa"]}
    model = {"@llm_models": "test.Gazetteer.v1", "entities": entities}
    labels, thresholds = ["person", "location"], {"person": 0.0}
    config = {"labels": labels, "label_thresholds": thresholds, "model": model}
    if key == "threshold":
        config["label_thresholds"] = {}
    pipe = nlp.add_pipe("universal_ner", config=config)
    pipe.cfg = {**pipe.cfg, "threshold": 0.125}  # changed after construction: tuned all the same
    nlp.to_disk(tmp_path)
    best, score, scores = find_threshold(tmp_path, gold, "universal_ner", key, "ents_f", n_trials=6)
    assert (best, score) == (pytest.approx(0.6), 1.0)
    last = 0.0 if key == "threshold" else 2 / 3
    assert list(scores.values()) == pytest.approx([0.8, 0.8, 0.8, 1.0, 2 / 3, last])
