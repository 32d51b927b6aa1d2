"""Real training runs of tiny models: what is learned, counted and kept."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback
from transformers.training_args import ParallelMode

from spacy_universalner.data.readers import write_conversations
from spacy_universalner.evaluation.metrics import count_strings, total
from spacy_universalner.evaluation.provenance import checksum
from spacy_universalner.ty import Conversation, Question
from spacy_universalner.universal_ner.finetune import (
    METRICS_FILE,
    TuningArguments,
    check_merge,
    finetune,
)
from spacy_universalner.universal_ner.finetune_data import (
    IGNORE_INDEX,
    encode_conversation,
)
from spacy_universalner.universal_ner.finetune_settings import (
    FinetuneSettings,
    LoraSettings,
)
from spacy_universalner.universal_ner.models.hf import make_hf_model
from spacy_universalner.universal_ner.parser import parse_list
from spacy_universalner.universal_ner.prompt import build_prompt, build_prompts
from tests.universal_ner.tuning import (
    CONVERSATION,
    SHORT,
    conversations,
    load,
    make_settings,
)


@pytest.mark.parametrize("attend", ["conversation", "question"])
def test_any_causal_model_learns_and_loads_again(folder, tmp_path, attend):
    with pytest.warns(UserWarning, match="2 conversations to evaluate on are not looked at"):
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
    assert metrics["trainable_parameters"] == metrics["parameters"] == tuned.num_parameters()
    (row,), _ = encode_conversation(tokenizer, conversations(1)[0])
    assert tuned(torch.tensor([row["input_ids"]])).logits.shape[-1] == len(tokenizer)


def test_what_a_run_depends_on_is_told(tiny_llama, tmp_path):
    path = tmp_path / "conversations.jsonl"
    write_conversations(path, conversations(2))
    finetune(make_settings(), str(tiny_llama), conversations(2), tmp_path / "out", data=[path])
    metrics = json.loads((tmp_path / "out" / METRICS_FILE).read_text())
    assert metrics["student"] == str(tiny_llama)
    assert metrics["settings"]["training"]["learning_rate"] == 5e-3
    assert metrics["settings"]["data"]["template"] == "train"
    assert metrics["provenance"]["data"] == {str(path): checksum(path)}


def test_a_process_trains_on_one_device_however_many_it_sees(tmp_path):
    arguments = TuningArguments(str(tmp_path), use_cpu=True, per_device_train_batch_size=4)
    assert arguments.n_gpu == 0
    arguments._n_gpu = 8
    assert arguments.n_gpu == 1
    assert (arguments.train_batch_size, arguments.eval_batch_size) == (4, 8)
    assert arguments.parallel_mode == ParallelMode.NOT_PARALLEL


def test_a_logger_that_is_not_there_is_named_before_any_work(tmp_path):
    settings = make_settings({"report_to": "slate"})
    with pytest.raises(
        ValueError, match=r"report_to = 'slate' in \[training\]: that logger is not"
    ):
        finetune(settings, "no-such-student", conversations(2), tmp_path)


class Remembers(TrainerCallback):
    """A logger as a user may have one."""

    def __init__(self):
        self.logged = []

    def on_log(self, args, state, control, logs=None, **_):
        self.logged.append((state.global_step, logs))


def test_a_logger_of_ones_own_gets_every_step(tiny_llama, tmp_path):
    logger = Remembers()
    student = str(tiny_llama)
    metrics = finetune(make_settings(), student, conversations(4), tmp_path, callbacks=[logger])
    steps = [(step, logs["loss"]) for step, logs in logger.logged if "loss" in logs]
    assert steps == [(each["step"], each["loss"]) for each in metrics["log"] if "loss" in each]
    assert [step for step, _ in steps] == [1, 2, 3, 4]


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_bert_decoder"])
def test_recomputed_activations_change_nothing(request, name, tmp_path):
    student = str(request.getfixturevalue(name))
    losses = []
    for recomputed in (False, True):
        settings = make_settings({"gradient_checkpointing": recomputed}, attend="question")
        metrics = finetune(settings, student, conversations(4), tmp_path / f"{recomputed}")
        losses.append([entry["loss"] for entry in metrics["log"] if "loss" in entry])
    assert losses[0] == losses[1]


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


def test_answers_are_scored_through_adapters(tiny_llama, tmp_path):
    pytest.importorskip("peft")
    settings = make_settings({"eval_strategy": "epoch", "num_train_epochs": 1}, dev_questions=2)
    metrics = finetune(
        FinetuneSettings(settings.data, settings.training, LoraSettings(r=4)),
        str(tiny_llama),
        conversations(4),
        tmp_path,
        dev_conversations=conversations(2),
    )
    assert [entry["eval_f1"] for entry in metrics["log"] if "eval_f1" in entry] == [0.0]


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_bert_decoder"])
def test_adapters_are_trained_alone_and_merged(request, tmp_path, name):
    pytest.importorskip("peft")
    folder = request.getfixturevalue(name)
    targets = ["q_proj", "v_proj"] if name == "tiny_llama" else ["query", "value"]
    before = load(folder)[0]
    for merge in (True, False):
        lora = LoraSettings(r=4, dropout=0.0, target_modules=targets, merge=merge)
        settings = make_settings({"gradient_checkpointing": True})
        metrics = finetune(
            FinetuneSettings(settings.data, settings.training, lora),
            str(folder),
            conversations(4),
            tmp_path / str(merge),
        )
        trainable = metrics["trainable_parameters"]
        assert metrics["parameters"] == before.num_parameters() + trainable
    adapters = load_file(tmp_path / "False" / "adapter_model.safetensors")
    assert trainable == sum(weight.numel() for weight in adapters.values())
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


def test_adapters_are_not_merged_into_sharded_weights():
    with pytest.raises(ValueError, match=r"merge = true in \[lora\].*FSDP.*--lora.merge false"):
        check_merge(LoraSettings(), sharded=True)
    check_merge(LoraSettings(), sharded=False)
    check_merge(LoraSettings(merge=False), sharded=True)
    check_merge(None, sharded=True)
