"""The script of pre-training: its inputs, a kill, several processes."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from scripts import pretrain_nuner
from spacy_universalner.data.readers import write_passages
from spacy_universalner.evaluation.provenance import checksum
from spacy_universalner.nuner.pretrain import (
    METRICS_FILE,
)
from spacy_universalner.ty import Mention, Passage
from tests.nuner.test_pretrain import make_passages, make_settings, weights
from tests.processes import launch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings(tiny_bert):
    return make_settings(tiny_bert)


def run_script(arguments):
    """The script in this process."""
    result = CliRunner().invoke(pretrain_nuner.app, list(map(str, arguments)))
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return result.output


def write_inputs(folder, settings):
    """The script's settings and a corpus in `folder`."""
    write_passages(folder / "corpus.jsonl", make_passages(160))
    values = "\n".join(f"{name} = {json.dumps(value)}" for name, value in asdict(settings).items())
    (folder / "pretrain.cfg").write_text(f"[pretraining]\n{values}\n")
    return [folder / "pretrain.cfg", folder / "corpus.jsonl"]


def test_sentences_of_longer_passages_are_read_too(tmp_path, settings):
    inputs = write_inputs(tmp_path, replace(settings, epochs=1))
    text = "Ada met Charles. Nobody spoke. Ada left Turin. In"
    found = [("Ada", 0, "person"), ("Ada", 31, "person"), ("Turin. In", 40, "place")]
    mentions = tuple(Mention(at, at + len(name), label) for name, at, label in found)
    assert all(text.startswith(name, at) for name, at, _ in found)
    write_passages(tmp_path / "long.jsonl", [Passage("long", text, mentions)])
    output = tmp_path / "trained"
    told = " ".join(run_script([*inputs, output, "--also", tmp_path / "long.jsonl"]).split())
    assert "2 sentences; left out are 2 without a mention, and 1 of 3 mentions" in told
    metrics = json.loads((output / METRICS_FILE).read_text())
    assert sum(metrics["passages"].values()) == 160 + 2
    assert metrics["concepts"] == 2  # person and city: "place" stood in no single sentence
    files = [tmp_path / "corpus.jsonl", tmp_path / "long.jsonl"]
    assert metrics["provenance"]["data"] == {str(path): checksum(path) for path in files}
    assert f"`{files[1]}`, sha256 `{checksum(files[1])}`" in (output / "README.md").read_text()


def test_a_probe_of_ones_own_files_keeps_the_best_epoch(tmp_path, settings):
    inputs = write_inputs(tmp_path, replace(settings, epochs=2, keep="probe"))
    write_passages(tmp_path / "probe.jsonl", make_passages(20))
    probe = ["--probe-train", tmp_path / "probe.jsonl", "--probe-k", 2]
    done = CliRunner().invoke(
        pretrain_nuner.app, [str(each) for each in (*inputs, tmp_path / "out", *probe)]
    )
    assert done.exit_code == 1 and "both --probe-train and --probe-dev" in done.output
    run_script([*inputs, tmp_path / "out", *probe, "--probe-dev", tmp_path / "probe.jsonl"])
    metrics = json.loads((tmp_path / "out" / METRICS_FILE).read_text())
    scores = [epoch["probe"] for epoch in metrics["epochs"]]
    assert len(scores) == 2 and scores[metrics["kept_epoch"] - 1] == max(scores)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_result_it_would_have_had(tmp_path, settings):
    settings = replace(settings, dropout=True, epochs=12)
    inputs = write_inputs(tmp_path, settings)
    run_script([*inputs, tmp_path / "whole"])

    killed = tmp_path / "killed"
    line = [sys.executable, "-m", "scripts.pretrain_nuner", *inputs, killed]
    process = subprocess.Popen(line, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while not (killed / "checkpoint.pt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (killed / METRICS_FILE).exists()
    done = len(torch.load(killed / "checkpoint.pt")["history"])
    assert 0 < done < settings.epochs
    run_script([*inputs, killed])

    first, second = weights(tmp_path / "whole"), weights(killed)
    assert all(torch.equal(first[name], second[name]) for name in first)
    metrics = [
        json.loads((tmp_path / name / METRICS_FILE).read_text()) for name in ("whole", "killed")
    ]
    assert metrics[0]["epochs"] == metrics[1]["epochs"]


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path, settings):
    inputs = write_inputs(tmp_path, settings)
    run_script([*inputs, tmp_path / "one"])
    module = ("tests.watched", "scripts.pretrain_nuner")
    printed = launch(2, *module, *inputs, tmp_path / "two")
    assert printed.count("threads left: []") == 2
    assert printed.count("pre-trained, details in") == 1  # one of them speaks
    metrics = [json.loads((tmp_path / name / METRICS_FILE).read_text()) for name in ("one", "two")]
    assert [each["processes"] for each in metrics] == [1, 2]
    for one, two in zip(metrics[0]["epochs"], metrics[1]["epochs"], strict=True):
        assert one == pytest.approx(two, rel=1e-3)
    first, second = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-2, atol=1e-2)
