"""Instruction tuning of a causal language model on conversations (UniversalNER 3.2, 4.1).

The loop is Hugging Face's Trainer with all its settings. What is added is the loss: it is taken on
the answers alone, so the output layer, as dear as the whole body of a small model with a large
vocabulary, is computed for those positions only.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
from transformers.models.auto.tokenization_auto import AutoTokenizer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.trainer import Trainer
from transformers.trainer_callback import (
    ExportableState,
    TrainerCallback,
    TrainerControl,
    TrainerState,
)
from transformers.trainer_utils import IntervalStrategy, set_seed
from transformers.training_args import TrainingArguments

from ..budget import TimeBudget
from ..evaluation.provenance import provenance
from ..precision import choose_precision, find_device
from ..pretrained import unavailable
from ..ty import Conversation, Reject
from .finetune_batches import Collator, LengthGroupedSampler, was_encoder
from .finetune_checkpoints import is_whole, last_checkpoint
from .finetune_data import IGNORE_INDEX, Row, encode_conversation
from .finetune_dev import score_answers
from .finetune_guides import GUIDES, Guide, guide_attention, word_tokens
from .finetune_loss import answer_loss, only_targets, own_tokens
from .finetune_settings import (
    CopySettings,
    DataSettings,
    FinetuneSettings,
    LoraSettings,
    check_loggers,
)
from .models.positions import count_positions

METRICS_FILE = "finetune.json"


class TuningArguments(TrainingArguments):
    """A Trainer's settings for one device a process, every CPU being called "cpu": of several
    processes each calls its own "cpu:1" and so on, a place to which `torch.load` can restore no
    checkpoint."""

    @property
    def device(self) -> torch.device:
        device = super().device
        return torch.device("cpu") if device.type == "cpu" else device

    @property
    def n_gpu(self) -> int:
        # A process that sees several would cut batches up between them (DataParallel), while the
        # output layer is told the targets of a whole batch.
        return min(1, super().n_gpu)


class Clock(TrainerCallback, ExportableState):
    """Ends a training whose time is over; its checkpoints keep the time spent.

    budget (TimeBudget): Of this training.
    """

    def __init__(self, budget: TimeBudget) -> None:
        self.budget = budget

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"spent": self.budget.spent}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        # Loaded with a checkpoint; typed as a list of callbacks, but it is a dict of their states.
        saved = cast("dict[str, Any]", state.stateful_callbacks).get(type(self).__name__)
        self.budget.start(saved["attributes"]["spent"] if saved and state.global_step else 0.0)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        control.should_training_stop |= self.budget.progress(state.global_step) == 1


class AnswerTrainer(Trainer):
    """A Trainer that projects onto the vocabulary only where something is learned.

    minutes (float): How long it may train; 0 for no limit.
    copying (CopySettings | None): What the first steps teach.
    score (Callable[[PreTrainedModel], float] | None): Called at each evaluation, for `eval_f1`.
    """

    def __init__(
        self,
        *args: Any,
        minutes: float = 0.0,
        copying: CopySettings | None = None,
        score: Callable[[PreTrainedModel], float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, compute_loss_func=answer_loss, **kwargs)
        self.minutes = minutes
        self.budget = TimeBudget(1)
        self.copying = copying
        self.score = score
        self.tokens = 0
        self.places = 0

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        self.budget = TimeBudget(num_training_steps, self.minutes)
        if not self.minutes:
            return super().create_scheduler(num_training_steps, optimizer)
        self.add_callback(Clock(self.budget))
        return self.budget.pace(super().create_scheduler(num_training_steps, optimizer))

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if self.score is not None:
            model = self.accelerator.unwrap_model(self.model).eval()
            metrics[f"{metric_key_prefix}_f1"] = self.score(model)
            self.log({f"{metric_key_prefix}_f1": metrics[f"{metric_key_prefix}_f1"]})
        return metrics

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if not self.args.group_by_length:
            return super()._get_train_sampler(train_dataset)
        return LengthGroupedSampler(
            [len(row["input_ids"]) for row in cast("Sequence[Row]", self.train_dataset)],
            self.args.train_batch_size
            * self.args.gradient_accumulation_steps
            * self.args.world_size,
            self.args.seed if self.args.data_seed is None else self.args.data_seed,
        )

    def _sorted_checkpoints(self, *args: Any, **kwargs: Any) -> list[str]:
        # In the order in which `save_total_limit` deletes: first what a killed run left half
        # written, however high its number
        found = super()._sorted_checkpoints(*args, **kwargs)
        return sorted(found, key=lambda path: is_whole(Path(path)))

    def is_copying(self, step: int) -> bool:
        """Whether a step is one of those that teach to copy."""
        if self.copying is None or 0 < self.copying.steps <= step:
            return False
        return self.budget.progress(step) < self.copying.ratio

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        lengths = inputs.pop("lengths")
        if model.training:
            self.tokens += int(lengths.sum())
            self.places += inputs["input_ids"].numel()
        head = self.accelerator.unwrap_model(model).get_output_embeddings()
        lookups: dict[Guide, Tensor] = inputs.pop("lookups", {})
        is_copying = model.training and self.is_copying(self.state.global_step)
        copying = self.copying if is_copying else None
        if copying is None:
            with only_targets(head, inputs["labels"]):
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        choices, inputs["labels"] = own_tokens(inputs["input_ids"], inputs["labels"])
        asked = {**inputs, "output_attentions": bool(copying.guided_layers)}
        with only_targets(head, inputs["labels"], choices):
            loss, outputs = super().compute_loss(model, asked, True, num_items_in_batch)
        # Each kind of lookup has heads of its own
        guides = [
            guide_attention(
                outputs.attentions[layer][:, number * copying.heads :][:, : copying.heads],
                lookups[kind],
            )
            for number, kind in enumerate(GUIDES)
            for layer in copying.guided_layers.get(kind, [])
            if len(lookups[kind])
        ]
        if guides:
            # Accumulated batches are averaged by the number of targets, which the copies follow
            share = 1 / max(1, self.args.gradient_accumulation_steps)
            loss = loss + copying.guidance * share * torch.stack(guides).sum()
        return (loss, outputs) if return_outputs else loss


@contextmanager
def _precision_kept() -> Iterator[None]:
    """A Trainer leaves its precision in the environment, where the next one would take it from."""
    before = {name: value for name, value in os.environ.items() if name.startswith("ACCELERATE_")}
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
            del os.environ[name]
        os.environ.update(before)


@_precision_kept()
def finetune(
    settings: FinetuneSettings,
    student: str,
    conversations: Iterable[Conversation],
    output: Path,
    *,
    dev_conversations: Iterable[Conversation] = (),
    resume: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    data: Iterable[Path] = (),
) -> dict[str, Any]:
    """Tune a causal language model on conversations and save it with its tokenizer.

    settings (FinetuneSettings): See `read_settings`.
    student (str): Folder or hub id of any causal language model.
    conversations (Iterable[Conversation]): What to train on.
    output (Path): Folder for the tuned model, its checkpoints and `finetune.json`.
    dev_conversations (Iterable[Conversation]): For the loss that `eval_strategy` asks for.
    resume (bool): Go on from the last whole checkpoint in `output`, if there is one.
    callbacks (Sequence[TrainerCallback]): Added to the Trainer's, such as a logger of one's own.
    data (Iterable[Path]): Files that the conversations are from, for `finetune.json`.
    RETURNS (dict[str, Any]): What `finetune.json` holds: student, settings, counts, seconds, tokens
        a second, share of padding, how copying was taught, parameters (all, and those trained), the
        last loss, questions left out with reasons, the log, provenance.
    RAISES (OSError): The student cannot be loaded.
    RAISES (ValueError): There is nothing to train on, the student lacks a layer that [copying]
        guides, a logger of `report_to` is not installed, or adapters would be merged into sharded
        weights.
    """
    training = dict(settings.training)
    if training.get("bf16"):
        wanted = "auto" if training["bf16"] == "auto" else "bfloat16"
        training["bf16"] = choose_precision(wanted, find_device()) == "bfloat16"
    arguments = TuningArguments(
        **{
            "use_cpu": not torch.accelerator.is_available(),
            "remove_unused_columns": False,
            # Several processes average over their tokens as one would, not over their averages.
            "average_tokens_across_devices": True,
            "label_names": ["labels"],
            # The other kind cannot train adapters on frozen embeddings.
            "gradient_checkpointing_kwargs": {"use_reentrant": False},
            **training,
            "output_dir": str(output),
        }
    )
    if settings.budget.minutes and arguments.world_size > 1:
        raise ValueError(
            f"minutes = {settings.budget.minutes} in [budget] with {arguments.world_size} "
            "processes: each would stop by a clock of its own. Leave [budget] out."
        )
    check_loggers(cast("list[str]", arguments.report_to))
    set_seed(arguments.seed)
    try:
        tokenizer = AutoTokenizer.from_pretrained(student)
        config = AutoConfig.from_pretrained(student)
        copying = settings.copying
        if copying is not None and copying.models == "encoders" and not was_encoder(config):
            copying = None
        # Only plain attention tells where it goes. On a CPU it is also the fastest to
        # differentiate over short texts.
        plain = arguments.device.type == "cpu" or (copying is not None and copying.guidance > 0)
        model = AutoModelForCausalLM.from_pretrained(
            student, attn_implementation="eager" if plain else None
        )
    except (OSError, ValueError) as error:
        raise unavailable(student, "the student", error) from error
    if copying is not None:
        text_config = model.config.get_text_config()
        copying.check_layers(text_config.num_hidden_layers, text_config.num_attention_heads)
    conversations, dev_conversations = list(conversations), list(dev_conversations)
    positions = count_positions(model.config)
    rows, rejects = encode_all(tokenizer, conversations, settings.data, positions)
    if not rows:
        raise ValueError(
            f"There is nothing to train on: no conversation has a question that fits into "
            f"{settings.data.max_length} tokens with its text. Raise max_length in [data]."
        )
    dev_rows, _ = encode_all(tokenizer, dev_conversations, settings.data, positions)
    asked = _take_questions(dev_conversations, settings.data.dev_questions)

    if dev_conversations and arguments.eval_strategy == IntervalStrategy.NO:
        warnings.warn(
            f"{len(dev_conversations):,} conversations to evaluate on are not looked at: set "
            'eval_strategy = "epoch" or "steps" in [training].',
            stacklevel=2,
        )

    def score(model: PreTrainedModel) -> float:
        # Adapters hide the model's own arguments and outputs; they work in it all the same.
        plain = getattr(model, "get_base_model", lambda: model)()
        return score_answers(plain, tokenizer, asked, template=settings.data.template).f1

    if settings.lora is not None:
        model = _add_adapters(model, settings.lora)
    # Later the weights may be sharded, or the adapters gone into them
    parameters = sum(weight.numel() for weight in model.parameters())
    trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    pad = tokenizer.pad_token_id
    trainer = AnswerTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=dev_rows or None,
        data_collator=Collator(
            tokenizer.eos_token_id if pad is None else pad,
            model.config,
            settings.data.attend,
            () if copying is None else word_tokens(tokenizer),
            () if copying is None else tuple(copying.guided_layers),
        ),
        processing_class=tokenizer,
        callbacks=list(callbacks),
        minutes=settings.budget.minutes,
        copying=copying,
        score=score if asked else None,
    )
    check_merge(settings.lora, sharded=trainer.is_fsdp_enabled)
    result = trainer.train(resume_from_checkpoint=last_checkpoint(output) if resume else None)
    if settings.lora is not None and settings.lora.merge:
        trainer.model = model.merge_and_unload()
    trainer.save_model()
    seconds = result.metrics["train_runtime"]
    counts = torch.tensor([trainer.tokens, trainer.places], device=arguments.device)
    tokens, places = trainer.accelerator.reduce(counts).tolist()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    metrics = {
        "student": student,
        "settings": {**asdict(settings), "training": training},
        "processes": arguments.world_size,
        "conversations": len(conversations),
        "questions": sum(len(item.questions) for item in conversations),
        "rows": len(rows),
        "copying": None if copying is None else asdict(copying),
        "target_tokens": sum(label != IGNORE_INDEX for row in rows for label in row["labels"]),
        "steps": result.global_step,
        "steps_planned": trainer.state.max_steps,
        "bf16": arguments.bf16,
        "seconds": seconds,
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "padding_share": 1 - tokens / places if places else 0.0,
        "parameters": parameters,
        "trainable_parameters": trainable,
        # Not the Trainer's mean, which in a resumed run lacks the steps before
        "loss": losses[-1] if losses else result.training_loss,
        "rejects": [{"id": id, "item": r.item, "reason": r.reason} for id, r in rejects],
        "log": trainer.state.log_history,
        "provenance": provenance(data),
    }
    if trainer.is_world_process_zero():
        (output / METRICS_FILE).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf8")
    return metrics


def encode_all(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Iterable[Conversation],
    settings: DataSettings,
    context_length: int | None,
) -> tuple[list[Row], list[tuple[str, Reject]]]:
    """Tokenise all conversations.

    tokenizer (PreTrainedTokenizerBase): The model's.
    conversations (Iterable[Conversation]): The records.
    settings (DataSettings): How.
    context_length (int | None): Positions the model has.
    RETURNS (tuple[list[Row], list[tuple[str, Reject]]]): Rows, and the questions left out, each
        with its conversation's id.
    """
    rows: list[Row] = []
    rejects: list[tuple[str, Reject]] = []
    for conversation in conversations:
        encoded, left_out = encode_conversation(
            tokenizer,
            conversation,
            template=settings.template,
            acknowledgement_loss=settings.acknowledgement_loss,
            max_length=settings.max_length,
            context_length=context_length,
            attend=settings.attend,
        )
        rows.extend(encoded)
        rejects.extend((conversation.id, reject) for reject in left_out)
    return rows, rejects


def check_merge(lora: LoraSettings | None, *, sharded: bool) -> None:
    """Refuse what would fail only after the training.

    lora (LoraSettings | None): Adapters, if they are what is trained.
    sharded (bool): Whether the weights are spread over the processes (FSDP).
    RAISES (ValueError): Adapters would be merged into weights of which no process has all.
    """
    if lora is not None and lora.merge and sharded:
        raise ValueError(
            "merge = true in [lora] with weights sharded over the processes (FSDP): adapters can "
            "be added to whole weights only. Set merge = false (--lora.merge false) and merge "
            "afterwards: spacy-universalner.HF.v1 does it with the output folder as `adapter`."
        )


def _take_questions(conversations: Sequence[Conversation], number: int) -> list[Conversation]:
    """The first conversations that have so many questions together."""
    taken: list[Conversation] = []
    for conversation in conversations:
        if number <= 0:
            break
        taken.append(conversation)
        number -= len(conversation.questions)
    return taken


def _add_adapters(model: Any, settings: LoraSettings) -> Any:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError(
            "LoRA needs peft: `pip install peft`. Or remove [lora] from the settings to train all "
            "weights."
        ) from error
    return get_peft_model(
        model,
        LoraConfig(
            task_type="CAUSAL_LM",
            r=settings.r,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=settings.target_modules,
        ),
    )
