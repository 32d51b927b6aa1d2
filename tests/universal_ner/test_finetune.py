"""Training rows, the loss on answers, and real training runs of tiny models."""

from __future__ import annotations

import json
import math
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
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from spacy_universalner.data.readers import write_conversations
from spacy_universalner.evaluation.metrics import count_strings, total
from spacy_universalner.ty import Conversation, Question
from spacy_universalner.universal_ner.finetune import METRICS_FILE, finetune
from spacy_universalner.universal_ner.finetune_data import (
    IGNORE_INDEX,
    Collator,
    encode_conversation,
    find_copies,
    without_absent,
)
from spacy_universalner.universal_ner.finetune_loss import (
    answer_loss,
    guide_attention,
    only_targets,
    own_tokens,
)
from spacy_universalner.universal_ner.finetune_settings import (
    BudgetSettings,
    CopySettings,
    DataSettings,
    FinetuneSettings,
    LoraSettings,
    read_settings,
)
from spacy_universalner.universal_ner.models.hf import make_hf_model
from spacy_universalner.universal_ner.parser import parse_list
from spacy_universalner.universal_ner.prompt import build_prompt, build_prompts
from spacy_universalner.universal_ner.tokenization import encode_pieces, end_token_id
from tests.processes import launch
from tests.universal_ner.sharded import step

ROOT = Path(__file__).parents[2]
FAMILIES = ("tiny_llama", "tiny_gpt2", "tiny_neox", "tiny_bert_decoder")

CONVERSATION = Conversation(
    "1",
    "Marie Curie won the Nobel Prize in Paris in 1903 with Pierre Curie.",
    (
        Question("person", ("Marie Curie", "Pierre Curie")),
        Question("organization"),
        Question("location", ("Paris",)),
    ),
)
SHORT = Conversation("2", "Paris.", (Question("location", ("Paris",)),))
TRAINING = {
    "learning_rate": 5e-3,
    "per_device_train_batch_size": 2,
    "num_train_epochs": 2,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}


@pytest.fixture(params=FAMILIES)
def folder(request) -> Path:
    return request.getfixturevalue(request.param)


def load(folder):
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def make_settings(training=None, **data) -> FinetuneSettings:
    return FinetuneSettings(DataSettings(**data), {**TRAINING, **(training or {})})


def conversations(number: int) -> list[Conversation]:
    names = ["Marie Curie", "Henrik Dalgaard", "Pierre Curie", "Barack Obama", "Jutland"]
    return [
        Conversation(
            str(i),
            f"{names[i % 5]} was born in Paris in {1900 + i}.",
            (Question("person", (names[i % 5],)), Question("city"), Question("year")),
        )
        for i in range(number)
    ]


# Rows


def test_loss_falls_on_answers_and_their_ends_alone(folder):
    _, tokenizer = load(folder)
    (row,), rejects = encode_conversation(tokenizer, CONVERSATION, template="serve")
    assert not rejects
    learned = [token for token in row["labels"] if token != IGNORE_INDEX]
    assert all(
        label in (token, IGNORE_INDEX)
        for token, label in zip(row["input_ids"], row["labels"], strict=True)
    )
    end = end_token_id(tokenizer)
    answers, current = [], []
    for token in learned:
        if token == end:
            answers.append(tokenizer.decode(current).strip())
            current = []
        else:
            current.append(token)
    assert current == []
    strip = str.lower if "[SEP]" in tokenizer.get_vocab() else str
    assert [answer.replace(" ", "") for answer in answers] == [
        strip(answer) for answer in ('["MarieCurie","PierreCurie"]', "[]", '["Paris"]')
    ]


def test_acknowledgement_can_be_learned_as_in_the_released_code(folder):
    _, tokenizer = load(folder)
    (plain,), _ = encode_conversation(tokenizer, SHORT, template="serve")
    (released,), _ = encode_conversation(
        tokenizer, SHORT, template="serve", acknowledgement_loss=True
    )
    assert released["input_ids"] == plain["input_ids"]
    added = [
        after
        for before, after in zip(plain["labels"], released["labels"], strict=True)
        if after != before
    ]
    assert added[-1] == end_token_id(tokenizer)
    words = tokenizer.decode(added[:-1]).strip().lower().replace(" ", "")
    assert words == "i'vereadthistext."


@settings(max_examples=60, deadline=None)
@given(
    answers=st.lists(st.lists(st.sampled_from(["Paris", "Marie Curie", "1903"]), max_size=4)),
    max_length=st.integers(50, 160),
    attend=st.sampled_from(["conversation", "question"]),
)
def test_splitting_loses_no_question_without_saying_so(tiny_gpt2, answers, max_length, attend):
    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2)
    questions = tuple(Question(f"type {i}", tuple(found)) for i, found in enumerate(answers))
    conversation = Conversation("1", "Paris, 1903.", questions)
    whole, _ = encode_conversation(tokenizer, conversation, max_length=10**6)
    rows, rejects = encode_conversation(
        tokenizer, conversation, max_length=max_length, attend=attend
    )
    assert all(len(row["input_ids"]) <= max_length for row in rows)
    rejected = {reject.item for reject in rejects}
    expected = [split_row(row)[1] for row in whole]
    expected = [
        turn
        for turns in expected
        for turn, question in zip(turns, questions, strict=True)
        if question.type not in rejected
    ]
    assert [turn for row in rows for turn in split_row(row)[1]] == expected
    assert len({tuple(split_row(row)[0]) for row in rows}) <= 1
    for reject in rejects:
        asked = Conversation("1", conversation.text, (questions[int(reject.item.split()[1])],))
        (alone,), _ = encode_conversation(tokenizer, asked, max_length=10**6)
        assert len(alone["input_ids"]) > max_length


def split_row(row):
    turns = [[] for _ in range(max(row["segments"]) + 1)]
    for token, label, segment in zip(row["input_ids"], row["labels"], row["segments"], strict=True):
        turns[segment].append((token, label))
    return turns[0], turns[1:]


@pytest.mark.parametrize("attend", ["conversation", "question"])
def test_a_row_without_absent_types_is_that_of_the_others(folder, attend):
    _, tokenizer = load(folder)
    present = replace(CONVERSATION, questions=CONVERSATION.questions[::2])
    (whole,), (rest,) = (
        encode_conversation(tokenizer, item, attend=attend)[0] for item in (CONVERSATION, present)
    )
    assert whole["absent"] == [2]
    left = without_absent(whole)
    assert (left["input_ids"], left["labels"]) == (rest["input_ids"], rest["labels"])
    assert [{1: 1, 3: 2}.get(each, each) for each in left["segments"]] == rest["segments"]
    assert without_absent(left) == left


def test_a_row_of_absent_types_alone_stays(tiny_gpt2):
    _, tokenizer = load(tiny_gpt2)
    absent = replace(CONVERSATION, questions=(Question("city"), Question("year")))
    (row,), _ = encode_conversation(tokenizer, absent)
    assert row["absent"] == [1, 2]
    assert without_absent(row) == row


def test_context_of_the_model_limits_a_question_not_a_row_of_separate_ones(tiny_gpt2):
    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2)
    (whole,), _ = encode_conversation(tokenizer, CONVERSATION, max_length=10**6)
    text, questions = split_row(whole)
    context = len(text) + max(map(len, questions))

    def count(attend, context_length):
        rows, rejects = encode_conversation(
            tokenizer, CONVERSATION, context_length=context_length, attend=attend
        )
        return len(rows), len(rejects)

    assert count("question", context) == (1, 0)
    assert count("conversation", context) == (3, 0)
    assert count("question", context - 1) == (1, 1)
    assert count("conversation", context - 1) == (2, 1)


# Loss


@pytest.mark.parametrize("attend", ["conversation", "question"])
def test_padding_changes_nothing(folder, attend):
    model, tokenizer = load(folder)
    collate = Collator(0, model.config, attend)
    rows = [
        encode_conversation(tokenizer, conversation, attend=attend)[0][0]
        for conversation in (CONVERSATION, SHORT)
    ]
    together = collate(rows)
    assert together["lengths"].tolist() == [len(row["input_ids"]) for row in rows]
    logits = forward(model, together)
    for number, row in enumerate(rows):
        alone = forward(model, collate([row]))[0]
        assert torch.allclose(logits[number, : len(alone)], alone, atol=1e-4)


def forward(model, batch):
    with torch.no_grad():
        return model(
            **{name: batch[name] for name in batch if name not in ("labels", "lengths")}
        ).logits


def test_separate_questions_are_answered_as_if_each_were_asked_alone(folder):
    model, tokenizer = load(folder)
    (row,), _ = encode_conversation(tokenizer, CONVERSATION, template="serve", attend="question")
    logits = forward(model, Collator(0, model.config, "question")([row]))[0]
    for number, question in enumerate(CONVERSATION.questions, start=1):
        prompt = build_prompt(CONVERSATION.text, question.type)
        prompt_ids = encode_pieces(tokenizer, prompt.pieces).ids
        places = [i for i, segment in enumerate(row["segments"]) if segment == number]
        text = [i for i, segment in enumerate(row["segments"]) if segment == 0]
        alone = [row["input_ids"][i] for i in text + places]
        with torch.no_grad():
            expected = model(torch.tensor([alone])).logits[0]
        assert torch.allclose(logits[places], expected[len(text) :], atol=1e-4)
        assert alone[: len(prompt_ids)] == prompt_ids


def two_rows(model, tokenizer):
    rows = [
        encode_conversation(tokenizer, conversation)[0][0] for conversation in (CONVERSATION, SHORT)
    ]
    batch = Collator(0, model.config)(rows)
    del batch["lengths"]
    return batch


def test_loss_on_selected_positions_equals_the_models_own(folder):
    model, tokenizer = load(folder)
    batch = two_rows(model, tokenizer)
    expected = model(**batch).loss
    expected.backward()
    gradients = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]
    model.zero_grad()
    labels = batch.pop("labels")
    with only_targets(model.get_output_embeddings(), labels):
        outputs = model(**batch)
    loss = answer_loss(outputs, labels)
    loss.backward()
    assert outputs.logits.shape[0] == int((labels != IGNORE_INDEX).sum())
    assert torch.allclose(loss, expected, atol=1e-5)
    found = [weight.grad for weight in model.parameters() if weight.grad is not None]
    for gradient, own in zip(found, gradients, strict=True):
        assert torch.allclose(gradient, own, atol=1e-5)
    assert model(**batch).logits.shape[:2] == labels.shape  # the hook is gone


def test_copying_is_the_models_own_loss_among_the_tokens_of_the_row(folder):
    model, tokenizer = load(folder)
    batch = two_rows(model, tokenizer)
    labels = batch.pop("labels")
    logits = model(**batch).logits
    losses = []
    for row, targets, scores in zip(batch["input_ids"], labels, logits, strict=True):
        others = torch.ones(scores.shape[-1], dtype=torch.bool)
        others[row] = False
        scores = scores.masked_fill(others, -torch.inf)[:-1]
        losses.append(functional.cross_entropy(scores, targets[1:], reduction="none"))
    learned = labels[:, 1:] != IGNORE_INDEX
    expected = torch.stack(losses)[learned].mean()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    gradients = torch.autograd.grad(expected, weights, allow_unused=True)
    choices, places = own_tokens(batch["input_ids"], labels)
    with only_targets(model.get_output_embeddings(), labels, choices):
        outputs = model(**batch)
    loss = answer_loss(outputs, places)
    assert outputs.logits.shape == (int(learned.sum()), len(torch.unique(batch["input_ids"])))
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    for gradient, own in zip(
        gradients, torch.autograd.grad(loss, weights, allow_unused=True), strict=True
    ):
        assert (gradient is None) == (own is None)
        assert gradient is None or torch.allclose(gradient, own, atol=1e-5)


def test_copies_are_found_where_the_text_goes_along_longest():
    # The text is 5 6 7 5 8 9, the answer's strings are 5 8 and 6, between them the token 9
    row = {
        "input_ids": [5, 6, 7, 5, 8, 9, 1, 9, 5, 8, 9, 6, 4, 5, 2],
        "labels": [-100] * 7 + [9, 5, 8, 9, 6, 4, 5, 2],
        "segments": [0] * 6 + [1] * 9,
    }
    found = list(find_copies(row, words={5, 6, 7, 8}))
    assert found == [(7, [3]), (8, [4]), (9, [5]), (10, [1]), (12, [0, 3])]


def test_guidance_is_how_little_attention_gets_to_the_copied_tokens():
    attention = torch.zeros(1, 2, 3, 3)
    attention[0, 0, 2] = torch.tensor([0.5, 0.25, 0.25])
    attention[0, 1, 2] = torch.tensor([0.0, 0.0, 1.0])
    attention[0, :, 1] = torch.tensor([1.0, 0.0, 0.0])
    copies = torch.tensor([[0, 0, 2, 0], [0, 0, 2, 1], [1, 0, 1, 0]])
    expected = -(math.log(0.75) + math.log(1e-5) + 2 * math.log(1.0)) / 4
    assert guide_attention(attention, copies).item() == pytest.approx(expected, rel=1e-4)


# Training


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


@pytest.mark.parametrize(("ratio", "copying_steps"), [(0.0, 0), (0.5, 2), (1.0, 4)])
def test_absent_types_wait_until_copying_is_learned(tiny_llama, tmp_path, ratio, copying_steps):
    settings = make_settings({"group_by_length": True, "num_train_epochs": 2})
    copying = CopySettings(ratio=ratio, guidance=0.0, absent=False, models="all")
    metrics = finetune(
        replace(settings, copying=copying), str(tiny_llama), [CONVERSATION] * 4, tmp_path
    )
    _, tokenizer = load(tiny_llama)
    lengths = []
    for questions in (CONVERSATION.questions[::2], CONVERSATION.questions):
        (row,), _ = encode_conversation(tokenizer, replace(CONVERSATION, questions=questions))
        lengths.append(len(row["input_ids"]))
    assert metrics["steps"] == 4
    assert metrics["tokens"] == 2 * (copying_steps * lengths[0] + (4 - copying_steps) * lengths[1])


def test_guided_heads_look_where_the_copied_tokens_stand(folder, tmp_path):
    settings = make_settings({"num_train_epochs": 6})
    guided = FinetuneSettings(
        settings.data, settings.training, copying=CopySettings(ratio=1.0, heads=1, models="all")
    )

    def attention(path):
        model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager")
        tokenizer = AutoTokenizer.from_pretrained(path)
        words = frozenset(tokenizer.get_vocab().values())
        batch = Collator(0, model.config, words=words)(
            [encode_conversation(tokenizer, item)[0][0] for item in conversations(4)]
        )
        copies = batch.pop("copies")
        del batch["lengths"], batch["labels"]
        with torch.no_grad():
            last = model(**batch, output_attentions=True).attentions[-1]
        return guide_attention(last[:, :1], copies).item(), guide_attention(last[:, 1:], copies)

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
from tests.universal_ner.test_finetune import conversations, make_settings

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


# Settings


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
        ('[copying]\nmodels = "llama"\n', "models = 'llama'.*'encoders' or 'all'"),
        ("[copying]\nabsent = false\n", r"absent = false in \[copying\] needs group_by_length"),
        ("[copying]\nshare = 0.5\n", "no setting 'share'. Known settings: absent, guidance, heads"),
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
