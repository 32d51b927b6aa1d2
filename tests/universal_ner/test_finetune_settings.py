"""Settings files of fine-tuning."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from scripts import build_conversations, finetune_universal_ner
from spacy_universalner.data.readers import read_conversations, write_passages
from spacy_universalner.evaluation.provenance import checksum
from spacy_universalner.ty import Mention, Passage
from spacy_universalner.universal_ner.finetune import METRICS_FILE
from spacy_universalner.universal_ner.finetune_settings import (
    DataSettings,
    FinetuneSettings,
    read_settings,
)

ROOT = Path(__file__).parents[2]


def test_settings_are_read_and_overridden(tmp_path):
    path = tmp_path / "finetune.cfg"
    path.write_text('[data]\nattend = "question"\n\n[training]\nlearning_rate = 3e-4\n')
    found = read_settings(path, {"training.learning_rate": 1e-3})
    assert found == FinetuneSettings(DataSettings(attend="question"), {"learning_rate": 1e-3})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[date]\n", "no section 'date'. Known sections: budget, copying, data, lora, training"),
        ("[data]\nlength = 3\n", r"\[data\] in .* no setting 'length'. Known .*max_length"),
        ("[training]\nlr = 1\n", r"\[training\] in .* no setting 'lr'. Known .*learning_rate"),
        ('[training]\noutput_dir = "x"\n', "no setting 'output_dir'"),
        ("[budget]\nminutes = -1\n", r"minutes = -1 in \[budget\]: expected at least 0"),
        ('[data]\nattend = "all"\n', "attend = 'all'.*'conversation'"),
        ("[copying]\nratio = 2\n", "ratio = 2.*between 0 and 1"),
        ("[copying]\nsteps = -1\n", r"steps = -1 in \[copying\]: expected at least 0"),
        ('[copying]\nmodels = "llama"\n', "models = 'llama'.*'encoders' or 'all'"),
        ("[copying]\nshare = 0.5\n", "no setting 'share'. Known settings: copy_layers, guidance, "),
    ],
)
def test_unknown_settings_are_named(tmp_path, text, message):
    path = tmp_path / "finetune.cfg"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_settings(path)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("finetune_*.cfg")), ids=str)
def test_shipped_settings_are_valid(path):
    read_settings(path)


def test_the_papers_settings_are_the_papers():
    """UniversalNER 4.1 with 8 processes, and NuNER A.2 at k = 8."""
    paper = read_settings(ROOT / "configs" / "finetune_7b.cfg").training
    few_shot = read_settings(ROOT / "configs" / "finetune_few_shot.cfg").training
    batch, few = (
        each["per_device_train_batch_size"] * each["gradient_accumulation_steps"]
        for each in (paper, few_shot)
    )
    assert (8 * batch, paper["learning_rate"], paper["num_train_epochs"]) == (256, 2e-5, 3)
    assert (few, few_shot["learning_rate"], few_shot["num_train_epochs"]) == (4, 2e-5, 20)
    for each in (paper, few_shot):
        assert (each["lr_scheduler_type"], each["warmup_ratio"]) == ("cosine", 0.04)
        assert each["weight_decay"] == 0.0


def test_the_few_shot_recipe_runs_from_sentences_to_a_model(tiny_llama, tmp_path):
    mentions = [(Mention(0, 3, "person"),), (Mention(0, 5, "city"),)]
    texts = ["Ada ran home.", "Turin is far.", "Bob sat down.", "Paris slept on."]
    passages = [Passage(f"{i}", text, mentions[i % 2]) for i, text in enumerate(texts)]
    write_passages(tmp_path / "few.jsonl", passages)
    script = Typer()
    script.command()(build_conversations.main)
    options = ["--dataset", "ours", "--negatives", "all", "--dev", "0"]
    built = CliRunner().invoke(
        script, [str(tmp_path / "built"), "--sentences", f"{tmp_path}/few.jsonl", *options]
    )
    assert built.exit_code == 0, built.output
    path = tmp_path / "built" / "conversations_train.jsonl"
    for conversation in read_conversations(path):
        assert conversation.dataset == "ours"
        assert {question.type for question in conversation.questions} == {"person", "city"}
    arguments = [ROOT / "configs/finetune_few_shot.cfg", tiny_llama, path, tmp_path / "tuned"]
    arguments += ["--training.bf16", "false", "--training.disable_tqdm", "true"]
    tuned = CliRunner().invoke(finetune_universal_ner.app, list(map(str, arguments)))
    assert tuned.exit_code == 0, f"{tuned.output}\n{tuned.exception!r}"
    metrics = json.loads((tmp_path / "tuned" / METRICS_FILE).read_text())
    assert (metrics["steps"], metrics["questions"]) == (20, 8)
    assert metrics["provenance"]["data"] == {str(path): checksum(path)}
