"""Instruction tuning of a causal language model on conversations (UniversalNER 3.2, 4.1).

The loop is Hugging Face's Trainer with all its settings. What is added is the loss: it is taken on
the answers alone, so the output layer, as dear as the whole body of a small model with a large
vocabulary, is computed for those positions only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from thinc.api import Config
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
from transformers.models.auto.tokenization_auto import AutoTokenizer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.trainer import Trainer
from transformers.trainer_callback import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint, set_seed
from transformers.training_args import TrainingArguments

from ..pretrained import unavailable
from ..ty import Conversation, Reject
from .finetune_data import (
    IGNORE_INDEX,
    Attend,
    Collator,
    LengthGroupedSampler,
    Row,
    encode_conversation,
    was_encoder,
)
from .finetune_dev import score_answers
from .models.decoding import count_positions

METRICS_FILE = "finetune.json"

_Section = TypeVar("_Section")


@dataclass(frozen=True)
class DataSettings:
    """How conversations become training rows: section [data].

    template (str): Prompt template, the one that the tuned model will be asked with.
    max_length (int): Tokens of a row at most, 1,024 in the paper.
    attend (Attend): "conversation", as in the paper: each question follows those before it.
        "question": each sees the text and itself alone, as it is asked at inference.
    acknowledgement_loss (bool): Also learn the fixed acknowledgement, as the released code does.
    dev_questions (int): Questions of the dev conversations, about, that the model answers at each
        evaluation, for `eval_f1`; 0 measures the loss only.
    """

    template: str = "train"
    max_length: int = 1024
    attend: Attend = "conversation"
    acknowledgement_loss: bool = False
    dev_questions: int = 0

    def __post_init__(self) -> None:
        if self.attend not in ("conversation", "question"):
            raise ValueError(
                f"attend = '{self.attend}' in [data] is not known. Use 'conversation' (the "
                "paper's) or 'question'."
            )


@dataclass(frozen=True)
class LoraSettings:
    """Train low-rank adapters in place of the weights: section [lora].

    r (int): Their rank.
    alpha (int): Their scale is alpha / r.
    dropout (float): Before each adapter.
    target_modules (list[str] | None): Names of the layers to adapt; None for peft's choice for
        the architecture (q and v projections of Llama).
    merge (bool): Add them to the weights at the end, so that the result loads without peft.
    """

    r: int = 8
    alpha: int = 16
    dropout: float = 0.05
    target_modules: list[str] | None = None
    merge: bool = True


@dataclass(frozen=True)
class CopySettings:
    """Teach a model that has never written to copy from the text first: section [copying].

    Language models come with this, so they are left alone. From answers only, an encoder read as a
    decoder learns which words are frequent long before it learns to look them up in the text.

    ratio (float): Share of the steps, from the first, that teach it. In them an answer's tokens are
        chosen among those of the row alone, as under `constrain = "text"`, and not from the whole
        vocabulary.
    guidance (float): Weight in these steps of a second loss, which leads the attention of some
        heads from where a token is written to where it stands in the text: the negative logarithm
        of the share that gets there, as in guided alignment (Chen et al. 2016) for translation.
    layers (list[int]): The layers that are guided; -1 is the last.
    heads (int): How many heads of each.
    models (str): "encoders": only models that were made of an encoder are taught. "all": also those
        that have learned to write, or whose weights are random.
    """

    ratio: float = 0.5
    guidance: float = 1.0
    layers: list[int] = field(default_factory=lambda: [-1])
    heads: int = 4
    models: Literal["encoders", "all"] = "encoders"

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"ratio = {self.ratio} in [copying] is not between 0 and 1.")
        if self.models not in ("encoders", "all"):
            raise ValueError(
                f"models = '{self.models}' in [copying] is not known. Use 'encoders' or 'all'."
            )


@dataclass(frozen=True)
class FinetuneSettings:
    """A settings file: sections [data], [training] and, if wanted, [lora] and [copying].

    data (DataSettings): Conversations to rows.
    training (dict[str, Any]): Fields of `transformers.TrainingArguments`, by their own names.
    lora (LoraSettings | None): None trains all weights.
    copying (CopySettings | None): None for models that can copy.
    """

    data: DataSettings
    training: dict[str, Any]
    lora: LoraSettings | None = None
    copying: CopySettings | None = None


def read_settings(path: Path, overrides: dict[str, Any] | None = None) -> FinetuneSettings:
    """Read and check a .cfg file.

    path (Path): The file.
    overrides (dict[str, Any] | None): Values by dotted name, such as "training.learning_rate".
    RETURNS (FinetuneSettings): The settings.
    RAISES (ValueError): A section or setting is not known.
    """
    config = Config().from_disk(path, overrides=overrides or {})
    known = {each.name for each in fields(FinetuneSettings)}
    _check_names(config, known, f"{path} has no section", "sections")
    arguments = {each.name for each in fields(TrainingArguments) if each.init}
    training = dict(config.get("training", {}))
    _check_names(training, arguments - {"output_dir"}, f"[training] in {path} has no setting")
    return FinetuneSettings(
        data=_read_section(DataSettings, config.get("data", {}), f"[data] in {path}"),
        training=training,
        lora=_read_section(LoraSettings, config["lora"], f"[lora] in {path}")
        if "lora" in config
        else None,
        copying=_read_section(CopySettings, config["copying"], f"[copying] in {path}")
        if "copying" in config
        else None,
    )


def _read_section(kind: type[_Section], values: dict[str, Any], where: str) -> _Section:
    known = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    _check_names(values, known, f"{where} has no setting")
    return kind(**values)


def _check_names(
    found: Iterable[str], known: set[str], message: str, what: str = "settings"
) -> None:
    for name in found:
        if name not in known:
            raise ValueError(f"{message} '{name}'. Known {what}: {', '.join(sorted(known))}.")


class AnswerTrainer(Trainer):
    """A Trainer that projects onto the vocabulary only where something is learned.

    copying (CopySettings | None): What the first steps teach.
    score (Callable[[PreTrainedModel], float] | None): Called at each evaluation, for `eval_f1`.
    """

    def __init__(
        self,
        *args: Any,
        copying: CopySettings | None = None,
        score: Callable[[PreTrainedModel], float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, compute_loss_func=answer_loss, **kwargs)
        self.copying = copying
        self.score = score
        self.tokens = 0
        self.places = 0

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
        rows = cast("Sequence[Row]", self.train_dataset)
        return LengthGroupedSampler(
            [len(row["input_ids"]) for row in rows],
            self.args.train_batch_size
            * self.args.gradient_accumulation_steps
            * self.args.world_size,
            self.args.seed if self.args.data_seed is None else self.args.data_seed,
        )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        lengths = inputs.pop("lengths")
        if model.training:
            self.tokens += int(lengths.sum())
            self.places += inputs["input_ids"].numel()
        head = self.accelerator.unwrap_model(model).get_output_embeddings()
        copies = inputs.pop("copies", None)
        copying = self.copying if model.training else None
        if copying is None or self.state.global_step >= copying.ratio * self.state.max_steps:
            with only_targets(head, inputs["labels"]):
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        choices, inputs["labels"] = own_tokens(inputs["input_ids"], inputs["labels"])
        if copying.guidance == 0 or copies is None or not len(copies):
            copies = None
        asked = {**inputs, "output_attentions": copies is not None}
        with only_targets(head, inputs["labels"], choices):
            loss, outputs = super().compute_loss(model, asked, True, num_items_in_batch)
        if copies is not None:
            guides = [
                guide_attention(outputs.attentions[layer][:, : copying.heads], copies)
                for layer in copying.layers
            ]
            # Accumulated batches are averaged by the number of targets, which the copies follow
            share = 1 / max(1, self.args.gradient_accumulation_steps)
            loss = loss + copying.guidance * share * torch.stack(guides).sum()
        return (loss, outputs) if return_outputs else loss


@dataclass(frozen=True)
class Choices:
    """The tokens that each row of a batch chooses from.

    tokens (Tensor): (choices,), ids of the tokens of the whole batch.
    allowed (Tensor): (batch, choices), which of them are a row's own.
    """

    tokens: Tensor
    allowed: Tensor


def own_tokens(input_ids: Tensor, labels: Tensor) -> tuple[Choices, Tensor]:
    """Let each row choose among the tokens that occur in it.

    input_ids (Tensor): (batch, length).
    labels (Tensor): (batch, length), -100 where nothing is learned, else the token itself.
    RETURNS (tuple[Choices, Tensor]): The choices, and the labels as indices into their tokens.
    """
    tokens, places = torch.unique(input_ids, return_inverse=True)
    allowed = torch.zeros(len(input_ids), len(tokens), dtype=torch.bool, device=input_ids.device)
    allowed.scatter_(1, places, True)
    return Choices(tokens, allowed), places.masked_fill(labels == IGNORE_INDEX, IGNORE_INDEX)


@contextmanager
def only_targets(
    output_layer: nn.Module, labels: Tensor, choices: Choices | None = None
) -> Iterator[None]:
    """Make a causal model's output layer compute no more than the loss needs.

    output_layer (nn.Module): The model's output embeddings, a linear layer over all positions.
    labels (Tensor): (batch, length), -100 where nothing is learned. Position i predicts label i+1;
        those that predict nothing are skipped.
    choices (Choices | None): The tokens to compute logits of; None for the whole vocabulary.
    """
    learned = labels[:, 1:] != IGNORE_INDEX
    selected: list[Tensor] = []

    def select(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states = args[0][:, :-1][learned]
        if choices is None:
            return (states, *args[1:])
        selected[:] = [states]
        return (states[:0], *args[1:])

    def choose(layer: Any, _: Any, output: Tensor) -> Tensor:
        assert choices is not None
        bias = getattr(layer, "bias", None)
        logits = F.linear(
            selected.pop(),
            layer.weight[choices.tokens],
            None if bias is None else bias[choices.tokens],
        )
        own = choices.allowed[learned.nonzero()[:, 0]]
        # Half of the least, as some models scale or cap their logits
        return logits.masked_fill(~own, torch.finfo(logits.dtype).min / 2)

    handles = [output_layer.register_forward_pre_hook(select)]
    if choices is not None:
        handles.append(output_layer.register_forward_hook(choose))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def guide_attention(attention: Tensor, copies: Tensor) -> Tensor:
    """How far attention is from where the copied tokens stand.

    attention (Tensor): (batch, heads, queries, keys), probabilities over the keys.
    copies (Tensor): (places, 4), see `Collator`.
    RETURNS (Tensor): A scalar: minus the logarithm of the attention that goes to a copied token's
        places, averaged over copied tokens and heads.
    """
    number, row, position, place = copies.unbind(1)
    shares = attention[row, :, position, place].float()
    totals = shares.new_zeros(int(number[-1]) + 1, shares.shape[1]).index_add(0, number, shares)
    return -(totals + 1e-5).log().mean()


def answer_loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | None = None) -> Tensor:
    """Cross-entropy of the selected positions' logits.

    outputs (Any): With `logits` (positions, vocabulary), as under `only_targets`.
    labels (Tensor): (batch, length).
    num_items_in_batch (Tensor | None): Targets of the whole optimiser step, over which to
        average; None for those of this batch.
    RETURNS (Tensor): A scalar.
    """
    targets = labels[:, 1:]
    targets = targets[targets != IGNORE_INDEX]
    total = F.cross_entropy(outputs.logits.float(), targets, reduction="sum")
    return total / (len(targets) if num_items_in_batch is None else num_items_in_batch)


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
) -> dict[str, Any]:
    """Tune a causal language model on conversations and save it with its tokenizer.

    settings (FinetuneSettings): See `read_settings`.
    student (str): Folder or hub id of any causal language model.
    conversations (Iterable[Conversation]): What to train on.
    output (Path): Folder for the tuned model, its checkpoints and `finetune.json`.
    dev_conversations (Iterable[Conversation]): For the loss that `eval_strategy` asks for.
    resume (bool): Go on from the last checkpoint in `output`, if there is one.
    callbacks (Sequence[TrainerCallback]): Added to the Trainer's, such as a logger of one's own.
    RETURNS (dict[str, Any]): What `finetune.json` holds: counts, seconds, tokens a second, share
        of padding, how copying was taught, questions left out with reasons, and the log of losses.
    RAISES (OSError): The student cannot be loaded.
    RAISES (ValueError): There is nothing to train on.
    """
    arguments = TrainingArguments(
        **{
            "use_cpu": not torch.accelerator.is_available(),
            "remove_unused_columns": False,
            # Several processes average over their tokens as one would, not over their averages.
            "average_tokens_across_devices": True,
            "label_names": ["labels"],
            # The other kind cannot train adapters on frozen embeddings.
            "gradient_checkpointing_kwargs": {"use_reentrant": False},
            **settings.training,
            "output_dir": str(output),
        }
    )
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

    def score(model: PreTrainedModel) -> float:
        return score_answers(model, tokenizer, asked, template=settings.data.template).f1

    if settings.lora is not None:
        model = _add_adapters(model, settings.lora)
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
            () if copying is None else _word_tokens(tokenizer),
        ),
        processing_class=tokenizer,
        callbacks=list(callbacks),
        copying=copying,
        score=score if asked else None,
    )
    result = trainer.train(
        resume_from_checkpoint=get_last_checkpoint(str(output))
        if resume and output.exists()
        else None
    )
    if settings.lora is not None and settings.lora.merge:
        trainer.model = model.merge_and_unload()
    trainer.save_model()
    seconds = result.metrics["train_runtime"]
    counts = torch.tensor([trainer.tokens, trainer.places], device=arguments.device)
    tokens, places = trainer.accelerator.reduce(counts).tolist()
    metrics = {
        "processes": arguments.world_size,
        "conversations": len(conversations),
        "questions": sum(len(item.questions) for item in conversations),
        "rows": len(rows),
        "copying": None if copying is None else asdict(copying),
        "target_tokens": sum(label != IGNORE_INDEX for row in rows for label in row["labels"]),
        "steps": result.global_step,
        "seconds": seconds,
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "padding_share": 1 - tokens / places if places else 0.0,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "train_loss": result.training_loss,
        "rejects": [{"id": id, "item": r.item, "reason": r.reason} for id, r in rejects],
        "log": trainer.state.log_history,
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


def _word_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    vocabulary = tokenizer.get_vocab().items()
    return frozenset(id for token, id in vocabulary if any(map(str.isalnum, token)))


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
