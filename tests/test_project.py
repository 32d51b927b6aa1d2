"""The Weasel project: its graph of files, and the whole of `all` on tiny models."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import spacy
import srsly
from weasel.cli.assets import project_assets
from weasel.cli.run import project_run
from weasel.util import load_project_config

from tests.evaluation.project import run

ROOT = Path(__file__).parent.parent
PROJECT = load_project_config(ROOT)
COMMANDS = {command["name"]: command for command in PROJECT["commands"]}
ASSETS = {asset["dest"] for asset in PROJECT["assets"]}


def is_output_of(path: str, outputs: set[str]) -> bool:
    """Whether a path is one of the outputs or lies in one of them."""
    return any(path == output or path.startswith(f"{output}/") for output in outputs)


@pytest.mark.parametrize("workflow", PROJECT["workflows"])
def test_every_dep_is_an_asset_an_earlier_output_or_a_file(workflow):
    made: set[str] = set()
    for name in PROJECT["workflows"][workflow]:
        for dep in COMMANDS[name].get("deps", []):
            assert dep in ASSETS or is_output_of(dep, made) or (ROOT / dep).is_file(), (name, dep)
        made.update(COMMANDS[name].get("outputs", []))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_config_script_and_input_in_a_command_is_a_dep(name):
    """Else an edit of the file would leave the command skipped as up to date."""
    command = COMMANDS[name]
    script = " ".join(command["script"])
    deps = set(command["deps"])
    for module in re.findall(r"-m scripts\.(\w+)", script):
        assert module == "stage" or f"scripts/{module}.py" in deps, module
    for config in re.findall(r"\S+\.cfg", script):
        assert config in deps, config


@pytest.mark.parametrize(
    ("rate", "trainings"),
    [
        ("pretrain_rate", "scripts.pretrain_nuner|scripts.ablate_nuner"),
        (
            "nuner_rate",
            "spacy train|scripts.(train_few_shot|pretrain_closed|evaluate_fine_tuned)",
        ),
        ("student_rate", "scripts.finetune_universal_ner|scripts.ablate "),
    ],
)
def test_every_training_takes_the_rate_of_its_weights(rate, trainings):
    project = load_project_config(ROOT, overrides={f"vars.{rate}": 0.125})
    scripts = [" ".join(command["script"]) for command in project["commands"]]
    found = [script for script in scripts if re.search(trainings, script)]
    assert len(found) > 1
    for script in found:
        assert script.count("rate 0.125") == len([*re.finditer(trainings, script)]), script


def test_every_asset_has_the_checksum_of_its_file(tmp_path):
    for asset in PROJECT["assets"]:
        if "url" not in asset:
            assert asset["checksum"], asset["dest"]
            (tmp_path / asset["dest"]).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / asset["dest"], tmp_path / asset["dest"])
    shutil.copy(ROOT / "project.yml", tmp_path)
    project_assets(tmp_path)  # exits with an error where a checksum differs


def test_every_config_for_users_has_a_tiny_twin():
    used = set(
        re.findall(
            r"configs/(\w+\.cfg)",
            (ROOT / "project.yml").read_text().replace("${vars.config_dir}", "configs"),
        )
    )
    assert used
    for name in used:
        assert (ROOT / "configs" / name).is_file(), name
        assert (ROOT / "configs" / "test" / name).is_file(), name


@pytest.mark.slow
def test_all_runs_from_the_assets_to_the_report(tmp_path, tiny_bert, tiny_llama):
    for name in ("assets", "configs", "scripts", "project.yml"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path / name)
    for name, number in (("nuner_responses", 800), ("uniner_responses", 150)):
        path = tmp_path / "assets" / f"{name}.jsonl"
        rows = path.read_text("utf8").splitlines(keepends=True)
        path.write_text("".join(rows[:number]), "utf8")
    overrides = {
        "vars.config_dir": "configs/test",
        "vars.encoder": str(tiny_bert),
        "vars.student": str(tiny_llama),
        "vars.seeds": 1,
    }
    assert {key.removeprefix("vars.") for key in overrides} <= set(PROJECT["vars"])
    project_run(tmp_path, "all", overrides=overrides, capture=True)

    for name in PROJECT["workflows"]["all"]:
        for output in COMMANDS[name]["outputs"]:
            path = tmp_path / output
            assert path.exists(), output
            files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
            assert files, output
            for file in files:
                if file.suffix == ".json":
                    json.loads(file.read_text(encoding="utf8"))
                if file.suffix == ".jsonl":
                    list(srsly.read_jsonl(file))
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf8")
    assert not re.findall(r"""(?:src|href)=["']https?://[^"']+\.(?:js|css|png|woff2?)""", page)

    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    project_run(tmp_path, "all", overrides=overrides, capture=True)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before, "the second run skips every command"


@pytest.mark.slow
def test_zero_shot_and_ablate_run_on_a_folder_of_ones_own(tmp_path, tiny_llama, monkeypatch):
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    for name in ("gold_train", "gold_test"):
        rows = (ROOT / "assets" / f"{name}.jsonl").read_text(encoding="utf8").splitlines()[:3]
        (tmp_path / "assets").mkdir(exist_ok=True)
        (tmp_path / "assets" / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf8")
    (tmp_path / "corpus").mkdir()
    for name in ("nuner", "uniner"):
        entity = {"start": 0, "end": 3, "label": "person", "description": "human individual"}
        texts = [{"text": f"Ada saw Rome {i} times.", "entities": [entity]} for i in range(20)]
        srsly.write_jsonl(tmp_path / "corpus" / f"{name}.jsonl", texts)
    shutil.copytree(tiny_llama, tmp_path / "training" / "student")
    nlp = spacy.blank("en")
    model = {"@llm_models": "spacy-universalner.HF.v1", "name": str(tiny_llama)}
    nlp.add_pipe("universal_ner", config={"model": model, "max_new_tokens": 8})
    nlp.to_disk(tmp_path / "training" / "universal_ner")
    (tmp_path / "sets").mkdir()
    sentence = "Ada\tB-researcher\nused\tO\nLisp\tB-programlang\n\n"
    (tmp_path / "sets" / "crossner_ai_test.txt").write_text(sentence, encoding="utf8")

    overrides = {
        "vars.config_dir": "configs/test",
        "vars.data_dir": "sets",
        "vars.ablation_texts": 4,
        "vars.seeds": 1,
    }
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    for command in load_project_config(ROOT, overrides=overrides)["commands"]:
        if command["name"] in ("zero-shot", "ablate"):
            for line in command["script"]:
                run(line)
    table = (tmp_path / "metrics" / "zero_shot" / "zero_shot.md").read_text(encoding="utf8")
    assert "| UniNER-7B (published) | string sets | 53.5 | 53.5 |" in table
    table = (tmp_path / "metrics" / "ablations" / "ablations.md").read_text(encoding="utf8")
    assert "over 1 seed(s)" in table
    assert "| with the name |" in table
