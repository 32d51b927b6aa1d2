"""`weasel run few-shot` on tiny data: its command lines as they stand in project.yml."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from spacy.tokens import DocBin
from spacy.vocab import Vocab
from transformers import AutoModel, AutoTokenizer
from weasel.util import load_project_config

from scripts.evaluate_fine_tuned import find_samples
from spacy_universalner.data.readers import write_passages
from spacy_universalner.ty import Mention, Passage
from tests.evaluation.project import run, write_benchmarks, write_sentences

ROOT = Path(__file__).parents[2]
SYSTEMS = ["base", "closed", "nuner"]
MADE_BEFORE = ["convert", "annotate", "pretrain"]


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny_bert):
    """The folder of a project after `weasel run few-shot`."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "configs", folder / "configs")
    shutil.copytree(tiny_bert, folder / "training" / "nuner-encoder")
    write_benchmarks(folder / "public")
    text = "Marie Curie saw Paris"
    mentions = (Mention(0, 11, "scientist"), Mention(16, 21, "city"))
    write_passages(folder / "corpus" / "nuner.jsonl", [Passage("a", text, mentions)] * 10)
    write_passages(folder / "corpus" / "uniner.jsonl", [Passage("b", f"{text}. {text}.", mentions)])
    gold = folder / "public" / "gold.txt"
    write_sentences(gold, 12, ("PERSON", "LOCATION"), tag_first=False)
    overrides = {
        "vars.config_dir": "configs/test",
        "vars.encoder": str(tiny_bert),
        "vars.data_dir": "public",
        "vars.frozen_sizes": "1,2",
        "vars.frozen_seeds": 2,
        "vars.tuned_sizes": "1",
        "vars.seeds": 1,
        "vars.test_limit": 3,
    }
    config = load_project_config(ROOT, overrides=overrides)
    assert {key.removeprefix("vars.") for key in overrides} <= set(config["vars"])
    commands = {command["name"]: command for command in config["commands"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", sys.argv)
        for split in ("train", "test"):
            run(f"python -m scripts.convert public/gold.txt corpus/gold_{split}.spacy")
        workflow = config["workflows"]["few-shot"]
        assert set(MADE_BEFORE) <= set(workflow)
        for name in (name for name in workflow if name not in MADE_BEFORE):
            for line in commands[name]["script"]:
                run(line)
            for output in commands[name]["outputs"]:
                assert Path(output).exists(), output
    return folder


def test_the_ordinary_classifier_leaves_an_encoder(project, tiny_bert):
    folder = project / "training" / "closed-encoder"
    model, base = AutoModel.from_pretrained(folder), AutoModel.from_pretrained(tiny_bert)
    assert AutoTokenizer.from_pretrained(folder)("Marie")
    trained = {
        name
        for name, value in model.named_parameters()
        if "pooler" not in name and not value.equal(base.get_parameter(name))
    }
    # The bottom half of two layers is frozen, with the embeddings.
    assert trained and all(name.startswith("encoder.layer.1.") for name in trained)
    metrics = json.loads((folder / "pretraining.json").read_text("utf8"))
    # Ten sentences, and of the passage's two the one with mentions
    assert (metrics["passages"], metrics["types"], metrics["share_of_mentions"]) == (11, 2, 1.0)
    assert metrics["mentions_lost"] == 0
    assert metrics["overrides"] == {"training.optimizer.learn_rate.initial_rate": 2e-4}


def test_every_encoder_sees_the_same_frozen_samples(project):
    report = json.loads((project / "metrics/few_shot/few_shot.json").read_text("utf8"))
    systems = report["systems"]
    assert list(systems) == SYSTEMS
    # Here NuNER's encoder is its base.
    assert systems["base"]["runs"] == systems["nuner"]["runs"]
    assert set(report["samples"]) == {"mit_movie", "mit_restaurant", "jnlpba"}
    for sample in report["samples"]["jnlpba"]:
        assert set(sample["indices"]) <= set(range(12))
        assert any(index % 2 for index in sample["indices"]), "a sentence with both types"


def test_every_encoder_is_fine_tuned_on_every_sample(project):
    results = json.loads((project / "metrics/few_shot/fine_tuned.json").read_text("utf8"))
    data = ["gold", "jnlpba", "mit_movie", "mit_restaurant"]
    assert [(run["data"], run["k"], run["seed"], run["encoder"]) for run in results["runs"]] == [
        (name, 1, 0, encoder) for name in data for encoder in SYSTEMS
    ]
    assert results["overrides"] == {
        "components.nuner.model.head": "mlp",
        "training.optimizer.learn_rate.initial_rate": 2e-4,
    }
    assert [row["runs"] for row in results["summary"]] == [1] * len(data) * len(SYSTEMS)
    logged = (project / "metrics/few_shot/fine_tuned.jsonl").read_text("utf8").splitlines()
    assert sorted(logged) == sorted(json.dumps(run) for run in results["runs"])


def test_the_report_has_tables_and_figures(project):
    page = (project / "report/few_shot/few_shot.md").read_text("utf8")
    header = "| k | base encoder | ordinary classifier | NuNER | gain | RoBERTa (paper) |"
    assert header in page
    assert re.search(
        r"\| 1 \|( \d+\.\d ± \d+\.\d \|){3} \+0\.0 \| 24\.5 \| 32\.3 \| 39\.4 \|", page
    )
    for name in re.findall(r"\((\w+\.svg)\)", page):
        svg = (project / "report/few_shot" / name).read_text("utf8")
        assert svg.startswith("<svg") and "ordinary classifier" in svg
        assert "var(--" not in svg
    assert "BioNLP 2004" in page
    # Entity micro-F1 with the paper's figures beside, and token macro-F1
    assert page.count("| gold | 1 | 1 |") == 2
    assert page.count("| NuNER (published) |") == 1
    results = json.loads((project / "metrics/few_shot/fine_tuned.json").read_text("utf8"))
    for score, name in (("entity_f1", "Entity micro-F1"), ("token_macro_f1", "Token macro-F1")):
        (row,) = (r for r in results["summary"] if (r["data"], r["encoder"]) == ("gold", "base"))
        table = page.split(f"{name}:\n")[1]
        assert f"| gold | 1 | 1 | {100 * row[score]['mean']:.1f} ± 0.0 |" in table


def test_a_run_can_be_resumed_and_missing_samples_are_named(project, tmp_path, monkeypatch):
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", sys.argv)
    shutil.copytree("metrics/few_shot", tmp_path / "out")
    log = tmp_path / "out" / "fine_tuned.jsonl"
    lines = log.read_text("utf8").splitlines(keepends=True)
    gold = [line for line in lines if json.loads(line)["data"] == "gold"]
    log.write_text("".join(gold[:-1]), "utf8")
    arguments = ["configs/test/nuner.cfg", "corpus/few_shot", str(tmp_path / "out"), "--resume"]
    paths = {run["encoder"]: run["path"] for run in map(json.loads, lines)}
    arguments += [f"--encoder={name}={paths[name]}" for name in SYSTEMS]
    made_with = json.loads(lines[0])["made_with"]
    arguments += ["--limit", str(made_with["limit"])]
    arguments += [f"--{key}={value}" for key, value in made_with["overrides"].items()]
    command = [*arguments, "--test", "corpus/gold_test.spacy"]
    run(shlex.join(["python", "-m", "scripts.evaluate_fine_tuned", *command]))
    resumed = log.read_text("utf8").splitlines(keepends=True)
    assert resumed[:-1] == gold[:-1] and json.loads(resumed[-1])["encoder"] == "nuner"
    # Those of other settings are made anew, and stay.
    run(shlex.join(["python", "-m", "scripts.evaluate_fine_tuned", *command, "--epochs", "1"]))
    again = log.read_text("utf8").splitlines(keepends=True)
    assert again[: len(resumed)] == resumed and len(again) == 2 * len(resumed)
    results = json.loads((tmp_path / "out" / "fine_tuned.json").read_text("utf8"))
    assert results["epochs"] == 1
    assert [run["made_with"]["epochs"] for run in results["runs"]] == [1] * len(resumed)
    # So are those on a sample that has changed since.
    sample = Path("corpus/few_shot/gold_k1_seed0.spacy")
    before = sample.read_bytes()
    docs = list(DocBin().from_bytes(before).get_docs(Vocab()))
    DocBin(docs=docs * 2).to_disk(sample)
    command += ["--epochs", "1"]
    run(shlex.join(["python", "-m", "scripts.evaluate_fine_tuned", *command]))
    sample.write_bytes(before)
    assert len(log.read_text("utf8").splitlines()) == 3 * len(resumed)
    DocBin().to_disk(tmp_path / "other_test.spacy")
    command = [*arguments, "--test", str(tmp_path / "other_test.spacy")]
    run(shlex.join(["python", "-m", "scripts.evaluate_fine_tuned", *command]), code=1)


def test_samples_of_any_name_are_found(tmp_path):
    for name in ("mit-movie_k8_seed0", "a.b_kw16_seed12", "other_k8_seed0", "mit-movie_test"):
        (tmp_path / f"{name}.spacy").touch()
    found = find_samples(tmp_path, ["mit-movie", "a.b"])
    assert [each[:4] for each in found] == [("a.b", "kw", 16, 12), ("mit-movie", "k", 8, 0)]


def test_the_frozen_protocol_is_reported_alone(project, tmp_path):
    shutil.copy(project / "metrics/few_shot/few_shot.json", tmp_path)
    run(f"python -m scripts.report_few_shot {tmp_path} {tmp_path / 'out'}")
    both = (project / "report/few_shot/few_shot.md").read_text("utf8")
    alone = (tmp_path / "out" / "few_shot.md").read_text("utf8")
    end = both.index("## The whole network fine-tuned")
    assert alone[:end] == both[:end] and "fine" not in alone[end:]
    assert not (tmp_path / "out" / "few_shot_fine_tuned.svg").exists()


def test_the_report_needs_results(tmp_path):
    run(f"python -m scripts.report_few_shot {tmp_path} {tmp_path / 'out'}", code=1)
    assert not (tmp_path / "out").exists()
