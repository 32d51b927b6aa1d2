"""Real training runs of tiny models."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from shutil import rmtree

import pytest
import torch
from accelerate import DistributedType, FullyShardedDataParallelPlugin
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from spacy_universalner.data.readers import write_conversations
from spacy_universalner.evaluation.metrics import count_strings, total
from spacy_universalner.ty import Conversation, Question
from spacy_universalner.universal_ner.finetune import METRICS_FILE, finetune
from spacy_universalner.universal_ner.finetune_batches import Collator
from spacy_universalner.universal_ner.finetune_data import (
    IGNORE_INDEX,
    encode_conversation,
)
from spacy_universalner.universal_ner.finetune_guides import guide_attention, word_tokens
from spacy_universalner.universal_ner.finetune_settings import (
    BudgetSettings,
    CopySettings,
    FinetuneSettings,
    LoraSettings,
)
from spacy_universalner.universal_ner.models.hf import make_hf_model
from spacy_universalner.universal_ner.parser import parse_list
from spacy_universalner.universal_ner.prompt import build_prompt, build_prompts
from tests.processes import launch
from tests.universal_ner.sharded import step
from tests.universal_ner.tuning import (
    CONVERSATION,
    SHORT,
    conversations,
    load,
    make_settings,
)

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("attend", ["conversation", "question"])
def test_any_causal_model_learns_and_loads_again(folder, tmp_path, attend):
    metrics = finetune(
        make_settings({"num_train_epochs": 4}, attend=attend),
        str(folder),
        conversations(8),
        tmp_path,
        dev_conversations=conversations(2),
    )
    losses = [entry["loss"] for entry in metrics["log"] if "loss" in entry]
    assert len(losses) == 16
    assert losses[-1] < losses[0] / 2
    assert json.loads((tmp_path / METRICS_FILE).read_text()) == json.loads(json.dumps(metrics))
    assert metrics["rows"] == 8
    assert metrics["conversations"] == 8
    assert metrics["questions"] == 24
    assert 0 <= metrics["padding_share"] < 1
    tuned, tokenizer = load(tmp_path)
    (row,), _ = encode_conversation(tokenizer, conversations(1)[0])
    assert tuned(torch.tensor([row["input_ids"]])).logits.shape[-1] == len(tokenizer)


def test_the_first_steps_choose_among_the_tokens_of_the_row_alone(tiny_llama, tmp_path):
    def losses(copying):
        steady = make_settings({"learning_rate": 0.0, "max_steps": 4, "logging_steps": 1})
        metrics = finetune(
            FinetuneSettings(steady.data, steady.training, copying=copying),
            str(tiny_llama),
            [CONVERSATION],
            tmp_path / str(copying),
        )
        return [entry["loss"] for entry in metrics["log"] if "loss" in entry]

    (copied, *rest), plain = (
        losses(CopySettings(ratio=0.25, guidance=0.0, models="all")),
        losses(None),
    )
    assert copied < 0.9 * plain[0]
    assert rest == plain[1:]


@pytest.mark.parametrize(("name", "taught"), [("tiny_llama", False), ("tiny_bert_decoder", True)])
def test_only_encoders_are_taught_to_copy(request, name, taught, tmp_path):
    settings = make_settings({"max_steps": 1})
    metrics = finetune(
        FinetuneSettings(settings.data, settings.training, copying=CopySettings()),
        str(request.getfixturevalue(name)),
        [CONVERSATION],
        tmp_path,
    )
    assert (metrics["copying"] is not None) == taught


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize(
    ("ratio", "steps", "copying_steps"),
    [(0.0, 0, 0), (0.25, 0, 1), (0.5, 0, 2), (1.0, 0, 4), (1.0, 3, 3), (0.5, 3, 2)],
)
def test_absent_types_wait_until_copying_is_learned(
    tiny_llama, tmp_path, epochs, ratio, steps, copying_steps
):
    settings = make_settings({"group_by_length": True, "num_train_epochs": epochs})
    copying = CopySettings(ratio=ratio, steps=steps, guidance=0.0, absent=False, models="all")
    metrics = finetune(
        replace(settings, copying=copying),
        str(tiny_llama),
        [CONVERSATION] * (8 // epochs),
        tmp_path,
    )
    _, tokenizer = load(tiny_llama)
    lengths = []
    for questions in (CONVERSATION.questions[::2], CONVERSATION.questions):
        (row,), _ = encode_conversation(tokenizer, replace(CONVERSATION, questions=questions))
        lengths.append(len(row["input_ids"]))
    assert metrics["steps"] == 4
    assert metrics["tokens"] == 2 * (copying_steps * lengths[0] + (4 - copying_steps) * lengths[1])


@pytest.mark.parametrize(("kind", "head"), [("copy", 0), ("match", 1), ("type", 2)])
def test_guided_heads_look_where_they_should(folder, tmp_path, kind, head):
    settings = make_settings({"num_train_epochs": 6})
    layers = {"copy_layers": [], f"{kind}_layers": [-1]}
    guided = replace(settings, copying=CopySettings(ratio=1.0, heads=1, models="all", **layers))

    def attention(path):
        model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager")
        tokenizer = AutoTokenizer.from_pretrained(path)
        batch = Collator(0, model.config, words=word_tokens(tokenizer), guides=[kind])(
            [encode_conversation(tokenizer, item)[0][0] for item in conversations(4)]
        )
        lookups = batch.pop("lookups")[kind]
        del batch["lengths"], batch["labels"]
        with torch.no_grad():
            last = model(**batch, output_attentions=True).attentions[-1]
        others = [number for number in range(last.shape[1]) if number != head]
        return [guide_attention(last[:, heads], lookups).item() for heads in ([head], others)]

    finetune(guided, str(folder), conversations(8), tmp_path)
    before, after = attention(folder), attention(tmp_path)
    assert after[0] < before[0] - 0.5
    assert after[0] < after[1]


def test_metrics_count_the_tokens_that_were_trained_on(tiny_gpt2, tmp_path):
    metrics = finetune(make_settings(), str(tiny_gpt2), conversations(4), tmp_path)
    _, tokenizer = load(tiny_gpt2)
    rows = [encode_conversation(tokenizer, item)[0][0] for item in conversations(4)]
    lengths = [len(row["input_ids"]) for row in rows]
    assert metrics["tokens"] == 2 * sum(lengths)
    assert metrics["target_tokens"] == sum(
        label != IGNORE_INDEX for row in rows for label in row["labels"]
    )
    assert metrics["steps"] == 4


def test_rows_of_like_length_need_little_padding(tiny_gpt2, tmp_path):
    items = [
        Conversation(str(i), "Paris. " * (1 + i % 60), (Question("location", ("Paris",)),))
        for i in range(240)
    ]
    shares = [
        finetune(
            make_settings(
                {
                    "group_by_length": grouped,
                    "num_train_epochs": 1,
                    "per_device_train_batch_size": 8,
                }
            ),
            str(tiny_gpt2),
            items,
            tmp_path / str(grouped),
        )["padding_share"]
        for grouped in (True, False)
    ]
    assert shares[0] < 0.1 < shares[1]


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


def test_accumulated_steps_equal_larger_batches(tiny_llama, tmp_path):
    batch = {"max_steps": 3, "group_by_length": False, "dataloader_drop_last": True}
    small = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
    items = [CONVERSATION, SHORT, *conversations(4)]
    for name, training in (("large", batch), ("small", {**batch, **small})):
        finetune(make_settings(training), str(tiny_llama), items, tmp_path / name)
    large, small = (load(tmp_path / name)[0].state_dict() for name in ("large", "small"))
    for name, weight in large.items():
        assert torch.allclose(weight, small[name], atol=1e-4), name


def test_questions_left_out_are_listed(tiny_gpt2, tmp_path):
    long = Conversation("long", "Paris. " * 200, (Question("location", ("Paris",)),))
    metrics = finetune(make_settings(max_length=200), str(tiny_gpt2), [SHORT, long], tmp_path)
    assert metrics["rejects"] == [
        {
            "id": "long",
            "item": "location",
            "reason": "longer than 200 tokens with its text",
        }
    ]
    with pytest.raises(ValueError, match=r"nothing to train on.*200 tokens"):
        finetune(make_settings(max_length=200), str(tiny_gpt2), [long], tmp_path)


def test_bfloat16_leaves_the_weights_in_float32(tiny_bert_decoder, tmp_path):
    finetune(make_settings({"bf16": True}), str(tiny_bert_decoder), conversations(4), tmp_path)
    weights = load(tmp_path)[0].state_dict()
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


def test_bfloat16_is_not_left_to_the_next_run(tiny_llama, tmp_path):
    def losses(name):
        metrics = finetune(make_settings(), str(tiny_llama), conversations(4), tmp_path / name)
        return [entry["loss"] for entry in metrics["log"] if "loss" in entry]

    before = losses("before")
    finetune(make_settings({"bf16": True}), str(tiny_llama), conversations(4), tmp_path / "bf16")
    assert losses("after") == before


def test_best_checkpoint_by_answers_is_kept(tiny_llama, tmp_path):
    # Long enough for the answers to be sure: a near tie may fall either way elsewhere
    training = {
        "num_train_epochs": 16,
        "eval_strategy": "steps",
        "eval_steps": 16,
        "save_strategy": "steps",
        "save_steps": 16,
        "load_best_model_at_end": True,
        "metric_for_best_model": "f1",
    }
    metrics = finetune(
        make_settings(training, dev_questions=6, template="serve"),
        str(tiny_llama),
        conversations(8),
        tmp_path,
        dev_conversations=conversations(4),
    )
    scores = [entry["eval_f1"] for entry in metrics["log"] if "eval_f1" in entry]
    assert len(scores) == 4
    assert max(scores) > 0
    best = tmp_path / f"checkpoint-{16 * (scores.index(max(scores)) + 1)}"
    kept, expected = load(tmp_path)[0].state_dict(), load(best)[0].state_dict()
    assert all(torch.equal(kept[name], weight) for name, weight in expected.items())
    model = make_hf_model(str(tmp_path), max_new_tokens=256)
    asked = conversations(2)
    counts = [
        count_strings(question.answers, [item.text for item in parse_list(answer)[0]])
        for conversation in asked
        for question, answer in zip(
            conversation.questions,
            next(iter(model([build_prompts(conversation.text, ["person", "city", "year"])]))),
            strict=True,
        )
    ]
    assert total(counts).scores().f1 == pytest.approx(max(scores))


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_bert_decoder"])
def test_adapters_are_trained_alone_and_merged(request, tmp_path, name):
    pytest.importorskip("peft")
    folder = request.getfixturevalue(name)
    targets = ["q_proj", "v_proj"] if name == "tiny_llama" else ["query", "value"]
    before = load(folder)[0]
    for merge in (True, False):
        lora = LoraSettings(r=4, dropout=0.0, target_modules=targets, merge=merge)
        settings = make_settings({"gradient_checkpointing": True})
        finetune(
            FinetuneSettings(settings.data, settings.training, lora),
            str(folder),
            conversations(4),
            tmp_path / str(merge),
        )
    merged, _ = load(tmp_path / "True")
    changed = {
        weight
        for weight, value in merged.state_dict().items()
        if not torch.equal(value, before.state_dict()[weight])
    }
    assert changed
    assert all(any(target in weight for target in targets) for weight in changed)
    adapter = tmp_path / "False"
    assert not (adapter / "model.safetensors").exists()
    model = make_hf_model(str(folder), adapter=str(adapter), max_new_tokens=8)
    prompts = [[build_prompt(CONVERSATION.text, "person")]]
    expected = make_hf_model(str(tmp_path / "True"), max_new_tokens=8)
    assert list(model(prompts)) == list(expected(prompts))


KILLED = """
import os, signal, sys
from pathlib import Path
from transformers import TrainerCallback
from spacy_universalner.universal_ner.finetune import finetune
from tests.universal_ner.tuning import conversations, make_settings

class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 7:
            os.kill(os.getpid(), signal.SIGKILL)

student, output = sys.argv[1:]
training = {training}
finetune(make_settings(training), student, conversations(8), Path(output), callbacks=[Kill()])
"""


@pytest.mark.slow
@pytest.mark.parametrize("group_by_length", [True, False])
def test_killed_run_resumes_to_the_same_end(tiny_llama, tmp_path, group_by_length):
    """Killed in the middle of the second epoch, a step after its last checkpoint."""
    training = {
        "save_strategy": "steps",
        "save_steps": 2,
        "num_train_epochs": 3,
        "group_by_length": group_by_length,
    }
    script = KILLED.replace("{training}", repr(training))
    killed = subprocess.run(
        [sys.executable, "-c", script, str(tiny_llama), str(tmp_path / "killed")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (tmp_path / "killed" / METRICS_FILE).exists()
    resumed, whole = (
        finetune(
            make_settings(training),
            str(tiny_llama),
            conversations(8),
            tmp_path / name,
            resume=True,
        )
        for name in ("killed", "whole")
    )
    assert [entry.get("loss") for entry in resumed["log"]] == [
        entry.get("loss") for entry in whole["log"]
    ]
    after, expected = (load(tmp_path / name)[0].state_dict() for name in ("killed", "whole"))
    for name, weight in expected.items():
        assert torch.equal(after[name], weight), name


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


@pytest.mark.slow
def test_two_processes_train_as_one(tiny_llama, tmp_path):
    path = tmp_path / "conversations.jsonl"
    write_conversations(path, [CONVERSATION, *conversations(7)])
    options = ["--training.bf16", "false", "--training.logging_steps", "1"]
    options += ["--training.max_steps", "4", "--training.learning_rate", "5e-3"]
    options += ["--training.per_device_train_batch_size"]
    arguments = [str(ROOT / "configs/test/finetune_mini.cfg"), str(tiny_llama), str(path)]
    for number, batch in ((1, 4), (2, 2)):
        output = tmp_path / str(number)
        launch(number, "scripts.finetune_universal_ner", *arguments, output, *options, batch)
    one, two = (json.loads((tmp_path / name / METRICS_FILE).read_text()) for name in "12")
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["tokens"] == two["tokens"]
    for run in (one, two):
        assert len(run["log"]) == 5
    for name in ("loss", "grad_norm"):
        assert [entry.get(name) for entry in two["log"][:-1]] == pytest.approx(
            [entry.get(name) for entry in one["log"][:-1]], abs=2e-4
        )
    first, second = (load(tmp_path / name)[0].state_dict() for name in "12")
    for name, weight in first.items():
        assert torch.allclose(weight, second[name], atol=1e-4), name


@pytest.mark.slow
def test_sharded_weights_give_the_same_gradient(tiny_llama, tmp_path):
    path = tmp_path / "conversations.jsonl"
    write_conversations(path, [CONVERSATION, *conversations(7)])
    output = tmp_path / "sharded.json"
    launch(2, "tests.universal_ner.sharded", tiny_llama, path, output)
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
