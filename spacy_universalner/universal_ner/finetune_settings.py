"""Settings of instruction tuning, read from a .cfg file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from thinc.api import Config
from transformers.integrations.integration_utils import get_available_reporting_integrations
from transformers.training_args import TrainingArguments

from .finetune_data import Attend
from .finetune_guides import GUIDES, Guide

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
    steps (int): The most steps that teach it, whatever their share; 0 for no limit. Copying takes
        as many steps to learn however many follow.
    guidance (float): Weight in these steps of a second loss, which leads the attention of some
        heads from where a token is written to where it stands in the text, and to what else an
        answer is looked up from: the negative logarithm of the share that gets there, as in guided
        alignment (Chen et al. 2016) for translation. See `finetune_guides`.
    copy_layers (list[int]): The layers that are guided from where a token is written to where it
        stands in the text; -1 is the last.
    match_layers (list[int]): Those guided from the words of a type to what they describe, or to the
        first token for what the text does not have.
    type_layers (list[int]): Those guided from an answer to the words of its type.
    heads (int): How many heads of a layer are guided, for each of the three.
    models (str): "encoders": only models that were made of an encoder are taught. "all": also those
        that have learned to write, or whose weights are random.
    """

    ratio: float = 0.5
    steps: int = 0
    guidance: float = 1.0
    copy_layers: list[int] = field(default_factory=lambda: [-1])
    match_layers: list[int] = field(default_factory=list)
    type_layers: list[int] = field(default_factory=list)
    heads: int = 4
    models: Literal["encoders", "all"] = "encoders"

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"ratio = {self.ratio} in [copying] is not between 0 and 1.")
        if self.steps < 0:
            raise ValueError(f"steps = {self.steps} in [copying]: expected at least 0.")
        if self.models not in ("encoders", "all"):
            raise ValueError(
                f"models = '{self.models}' in [copying] is not known. Use 'encoders' or 'all'."
            )

    @property
    def guided_layers(self) -> dict[Guide, list[int]]:
        """RETURNS (dict[Guide, list[int]]): The layers of each kind of lookup that is guided."""
        layers: dict[Guide, list[int]] = {
            "copy": self.copy_layers,
            "match": self.match_layers,
            "type": self.type_layers,
        }
        return {kind: numbers for kind, numbers in layers.items() if numbers and self.guidance}

    def check_layers(self, layers: int, heads: int) -> None:
        """Check that a model has the layers and heads to guide.

        layers (int): How many layers it has.
        heads (int): How many heads each has.
        RAISES (ValueError): It has fewer.
        """
        for kind, numbers in self.guided_layers.items():
            for number in numbers:
                if not -layers <= number < layers:
                    raise ValueError(
                        f"{number} in {kind}_layers in [copying]: the student has {layers} layers. "
                        f"Expected {-layers} to {layers - 1}."
                    )
        needed = self.heads * (
            1 + max((GUIDES.index(kind) for kind in self.guided_layers), default=-1)
        )
        if needed > heads:
            raise ValueError(
                f"heads = {self.heads} in [copying]: the student has {heads} heads a layer, and "
                f"{needed} are guided. Expected at most {heads * self.heads // needed}."
            )


@dataclass(frozen=True)
class BudgetSettings:
    """A limit of time: section [budget].

    minutes (float): If all steps would take longer, fewer are taken, and the learning rate falls
        and copying ends as much sooner; 0 for no limit.
    """

    minutes: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.minutes, (int, float)) or self.minutes < 0:
            raise ValueError(f"minutes = {self.minutes} in [budget]: expected at least 0.")


@dataclass(frozen=True)
class FinetuneSettings:
    """A settings file: [data], [training] and, if wanted, [lora], [copying] and [budget].

    data (DataSettings): Conversations to rows.
    training (dict[str, Any]): Fields of `transformers.TrainingArguments`, by their own names.
        bf16 = "auto" is bfloat16 where the device computes in it.
    lora (LoraSettings | None): None trains all weights.
    copying (CopySettings | None): None for models that can copy.
    budget (BudgetSettings): How long it may take.
    """

    data: DataSettings
    training: dict[str, Any]
    lora: LoraSettings | None = None
    copying: CopySettings | None = None
    budget: BudgetSettings = BudgetSettings()


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
        budget=_read_section(BudgetSettings, config.get("budget", {}), f"[budget] in {path}"),
    )


def check_loggers(names: Iterable[str]) -> None:
    """Check that the loggers can be used, before a model is loaded for hours of work.

    names (Iterable[str]): `report_to` of a Trainer's arguments.
    RAISES (ValueError): One is not installed, or not known.
    """
    usable = [*get_available_reporting_integrations(), "flyte"]  # which is not listed
    for name in names:
        if name not in usable:
            raise ValueError(
                f"report_to = '{name}' in [training]: that logger is not installed. Install it, "
                f"such as by `pip install {name}`, or set report_to = 'none'. "
                f"Installed: {', '.join(usable[:-1]) or 'none'}."
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
