"""Real training runs of tiny models, stopped, resumed and shared by processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from shutil import copytree, rmtree

import pytest
import torch
from accelerate import DistributedType, FullyShardedDataParallelPlugin
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from typer.testing import CliRunner

from scripts import finetune_universal_ner
from spacy_universalner.data.readers import write_conversations
from spacy_universalner.universal_ner.finetune import METRICS_FILE, finetune
from spacy_universalner.universal_ner.finetune_settings import (
    BudgetSettings,
)
from tests.processes import launch
from tests.universal_ner.sharded import step
from tests.universal_ner.tuning import (
    CONVERSATION,
    conversations,
    load,
    make_settings,
)

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("attend", ["conversation", "question"])
def test_checkpoints_change_nothing(tiny_llama, tmp_path, attend):
    losses = []
    for strategy in ("no", "epoch"):
        metrics = finetune(
            make_settings({"save_strategy": strategy}, attend=attend),
            str(tiny_llama),
            conversations(4),
            tmp_path / strategy,
        )
        losses.append([entry.get("loss") for entry in metrics["log"]])
    assert losses[0] == losses[1]


class Stop(TrainerCallback):
    """Sends a signal to its own process in the middle of the second epoch, a step after the last
    checkpoint.
    """

    def __init__(self, number):
        self.number = number

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 7:
            os.kill(os.getpid(), self.number)


KILLED = """
import signal, sys
from pathlib import Path
from spacy_universalner.universal_ner.finetune import finetune
from tests.universal_ner.test_finetune_resume import Stop
from tests.universal_ner.tuning import conversations, make_settings

student, output = sys.argv[1:]
settings = make_settings({training})
stop = Stop(signal.SIGKILL)
finetune(settings, student, conversations(8), Path(output), callbacks=[stop])
"""


def kill(training, student, output):
    """`kill -9`, in a process of its own."""
    script = KILLED.replace("{training}", repr(training))
    killed = subprocess.run(
        [sys.executable, "-c", script, student, str(output)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()


def interrupt(training, student, output):
    """Ctrl-C."""
    stop = Stop(signal.SIGINT)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            finetune(make_settings(training), student, conversations(8), output, callbacks=[stop])
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.parametrize("group_by_length,stop", [(True, kill), (False, interrupt)])
def test_a_stopped_run_resumes_to_the_same_end(tiny_llama, tmp_path, group_by_length, stop):
    training = {
        "save_strategy": "steps",
        "save_steps": 2,
        "num_train_epochs": 3,
        "group_by_length": group_by_length,
    }
    stop(training, str(tiny_llama), tmp_path / "stopped")
    assert not (tmp_path / "stopped" / METRICS_FILE).exists()
    resumed, whole = (
        finetune(
            make_settings(training),
            str(tiny_llama),
            conversations(8),
            tmp_path / name,
            resume=True,
        )
        for name in ("stopped", "whole")
    )
    assert [entry.get("loss") for entry in resumed["log"]] == [
        entry.get("loss") for entry in whole["log"]
    ]
    after, expected = (load(tmp_path / name)[0].state_dict() for name in ("stopped", "whole"))
    for name, weight in expected.items():
        assert torch.equal(after[name], weight), name


@pytest.mark.parametrize("number,start", [(1, "checkpoint-2"), (2, "its start")])
def test_checkpoints_half_written_are_passed_over(tiny_llama, tmp_path, number, start):
    settings = make_settings({"save_strategy": "steps", "save_steps": 2})
    whole = finetune(settings, str(tiny_llama), conversations(4), tmp_path)
    # Killed before the Trainer's state was begun, and while it was written
    (tmp_path / "checkpoint-4" / "trainer_state.json").unlink()
    if number == 2:
        state = tmp_path / "checkpoint-2" / "trainer_state.json"
        state.write_text(state.read_text()[:-9])
    (tmp_path / "checkpoint-9-old").mkdir()
    names = ", ".join(["checkpoint-2", "checkpoint-4"][-number:])
    with pytest.warns(UserWarning, match=f": {names}, not written .* goes on from {start}"):
        resumed = finetune(settings, str(tiny_llama), conversations(4), tmp_path, resume=True)
    assert [entry.get("loss") for entry in resumed["log"]] == [
        entry.get("loss") for entry in whole["log"]
    ]
    assert number * whole["tokens"] == 2 * resumed["tokens"]


def test_what_a_killed_run_left_is_deleted_before_whole_checkpoints(tiny_llama, tmp_path):
    left = tmp_path / "checkpoint-99"
    left.mkdir()
    os.utime(left, (2**32, 2**32))  # by a machine whose clock is ahead
    training = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 1}
    finetune(make_settings(training), str(tiny_llama), conversations(4), tmp_path)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-4"]


def test_a_run_ends_with_its_time_and_its_schedule(tiny_llama, tmp_path):
    settings = replace(make_settings(), budget=BudgetSettings(minutes=1e-4))
    metrics = finetune(settings, str(tiny_llama), conversations(8), tmp_path)
    assert (metrics["steps"], metrics["steps_planned"]) == (1, 8)
    load(tmp_path)


def test_time_enough_changes_nothing(tiny_llama, tmp_path):
    runs = []
    for minutes in (0.0, 10.0):
        settings = replace(make_settings(), budget=BudgetSettings(minutes=minutes))
        runs.append(finetune(settings, str(tiny_llama), conversations(8), tmp_path / f"{minutes}"))
    losses = [[entry.get("loss") for entry in run["log"]] for run in runs]
    rates = [[entry.get("learning_rate") for entry in run["log"]] for run in runs]
    assert losses[0] == losses[1]
    assert rates[0] == rates[1]


def test_time_spent_before_a_checkpoint_counts(tiny_llama, tmp_path):
    settings = make_settings({"save_strategy": "steps", "save_steps": 2})
    settings = replace(settings, budget=BudgetSettings(minutes=10))
    finetune(settings, str(tiny_llama), conversations(8), tmp_path)
    for later in (4, 6, 8):
        rmtree(tmp_path / f"checkpoint-{later}")
    state = tmp_path / "checkpoint-2" / "trainer_state.json"
    saved = json.loads(state.read_text())
    assert 0 < saved["stateful_callbacks"]["Clock"]["attributes"]["spent"] < 600
    saved["stateful_callbacks"]["Clock"]["attributes"]["spent"] = 601
    state.write_text(json.dumps(saved))
    metrics = finetune(settings, str(tiny_llama), conversations(8), tmp_path, resume=True)
    assert metrics["steps"] == 3


def count(output, words):
    """How often words stand in what was printed, however its lines were broken."""
    return " ".join(output.split()).count(words)


@pytest.fixture(scope="module")
def two_processes(tiny_llama, tmp_path_factory):
    """A run of two processes: its output, and what to call the script with to repeat it."""
    folder = tmp_path_factory.mktemp("two-processes")
    path = folder / "conversations.jsonl"
    write_conversations(path, [CONVERSATION, *conversations(7)])
    arguments = [ROOT / "configs/test/finetune_mini.cfg", tiny_llama, path]
    options = ["--training.bf16", "false", "--training.logging_steps", "1"]
    options += ["--training.max_steps", "4", "--training.learning_rate", "5e-3"]
    options += ["--training.save_strategy", "steps", "--training.save_steps", "2"]
    options += ["--training.per_device_train_batch_size", "2"]
    command = ["scripts.finetune_universal_ner", *arguments, folder / "tuned", *options]
    printed = launch(2, "tests.watched", *command)
    assert printed.count("threads left: []") == 2
    assert count(printed, "tuned, details in") == 1  # one of them speaks
    return folder / "tuned", arguments, options


@pytest.mark.slow
def test_two_processes_train_as_one(two_processes, tmp_path):
    tuned, arguments, options = two_processes
    command = [*arguments, tmp_path / "alone", *options[:-1], 4]
    alone = CliRunner().invoke(finetune_universal_ner.app, list(map(str, command)))
    assert alone.exit_code == 0, alone.output
    folders = tmp_path / "alone", tuned
    one, two = (json.loads((folder / METRICS_FILE).read_text()) for folder in folders)
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["tokens"] == two["tokens"]
    for run in (one, two):
        assert len(run["log"]) == 5
    for name in ("loss", "grad_norm"):
        assert [entry.get(name) for entry in two["log"][:-1]] == pytest.approx(
            [entry.get(name) for entry in one["log"][:-1]], abs=2e-4
        )
    first, second = (load(folder)[0].state_dict() for folder in folders)
    for name, weight in first.items():
        assert torch.allclose(weight, second[name], atol=1e-4), name


@pytest.mark.slow
def test_two_processes_resume_to_the_same_end(two_processes, tmp_path):
    tuned, arguments, options = two_processes
    copytree(tuned, tmp_path / "resumed")
    rmtree(tmp_path / "resumed" / "checkpoint-4")
    command = [*arguments, tmp_path / "resumed", *options, "--resume"]
    output = launch(2, "scripts.finetune_universal_ner", *command)
    assert count(output, "tuned, details in") == 1
    losses, weights, tokens = [], [], []
    for folder in (tuned, tmp_path / "resumed"):
        metrics = json.loads((folder / METRICS_FILE).read_text())
        assert metrics["loss"] == metrics["log"][3]["loss"]
        losses.append([entry.get("loss") for entry in metrics["log"]])
        weights.append(load(folder)[0].state_dict())
        tokens.append(metrics["tokens"])
    # Two epochs of two steps, of which the second run has taken the second alone
    assert tokens[0] == 2 * tokens[1]
    assert losses[0] == losses[1]
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name]), name


@pytest.mark.slow
def test_sharded_weights_give_the_same_gradient(tiny_llama, tmp_path):
    path = tmp_path / "conversations.jsonl"
    write_conversations(path, [CONVERSATION, *conversations(7)])
    output = tmp_path / "sharded.json"
    printed = launch(2, "tests.watched", "tests.universal_ner.sharded", tiny_llama, path, output)
    assert printed.count("threads left: []") == 2
    whole = step(str(tiny_llama), path, sharded=False)
    assert json.loads(output.read_text()) == pytest.approx(whole, rel=1e-4)


def test_the_config_for_sharding_is_what_accelerate_reads():
    config = load_config_from_file(str(ROOT / "configs" / "accelerate_fsdp.yaml"))
    assert (config.distributed_type, config.num_processes) == (DistributedType.FSDP, 8)
    options = vars(launch_command_parser().parse_args(["script.py"]))
    assert set(config.fsdp_config) <= set(options)
    plugin = FullyShardedDataParallelPlugin(
        sharding_strategy=config.fsdp_config["fsdp_sharding_strategy"],
        auto_wrap_policy=config.fsdp_config["fsdp_auto_wrap_policy"],
        state_dict_type=config.fsdp_config["fsdp_state_dict_type"],
        sync_module_states=False,  # needs an accelerator
    )
    model = LlamaForCausalLM(LlamaConfig(hidden_size=8, num_attention_heads=2, vocab_size=9))
    plugin.set_auto_wrap_policy(model)
    policy = plugin.auto_wrap_policy
    assert policy.keywords["transformer_layer_cls"] == {LlamaDecoderLayer}
