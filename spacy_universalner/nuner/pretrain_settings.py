"""Settings of contrastive pre-training, read from a .cfg file."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from accelerate.tracking import get_available_trackers
from thinc.api import Config

from .contrastive import Pooling

Precision = Literal["auto", "float32", "bfloat16"]
Keep = Literal["last", "dev_loss", "probe"]


@dataclass(frozen=True)
class PretrainSettings:
    """Section [pretraining] of a settings file. The defaults are the paper's (3.3).

    encoder (str): What both encoders start from: "embedded", a folder or a hub id.
    seed (int): Decides split, order and dropout.
    dev_fraction (float): Share of the passages held out for the validation loss.
    max_length (int): Tokens of a passage at most.
    epochs (int): Passes over the training passages.
    minutes (float): If they would take longer, fewer steps are taken and the learning rate falls
        as much sooner; 0 for no limit.
    batch_size (int): Passages a batch, over all processes.
    learning_rate (float): At the end of the warm-up; falls linearly to zero.
    warmup (float): Share of the steps over which it rises.
    beta1 (float), beta2 (float), eps (float), weight_decay (float): Of AdamW.
    frozen (float): Share of the text encoder's layers that stay as they are, from the bottom.
    concept_frozen (float): The same for the concept encoder; the paper does not freeze it.
    pooling (str): "mean" over a concept's tokens or the "first" token; not stated in the paper.
        The mean is what short names are usually pooled by.
    temperature (float): What the dot products are divided by; 1 turns it off.
    bias (float): Added to the logits. The paper has none; see `ContrastiveModel`.
    max_concepts (int): Concepts a batch at most, drawn at random; 0 for all.
    mask_similar (float): Cosine from which on two concepts count as synonyms, by the encoder that
        training starts from; a synonym of a token's own concept is no negative for it. 0 for
        none: the paper does not say that it does so.
    dropout (bool): Use the encoders' own dropout in the layers that are trained.
    precision (str): "float32", "bfloat16" (autocast), or "auto" for bfloat16 where the device
        computes in it.
    keep (str): Which epoch's weights are the result: the "last", or the best by "dev_loss" or by
        the few-shot "probe".
    cache_frozen (bool): Compute the frozen layers once and keep their output in memory: 2 or 4
        bytes x width for each token of the corpus.
    log_with (str): One of accelerate's loggers whose package is installed, such as "tensorboard"
        or "wandb": loss and learning rate every ten steps, and what each epoch scores. "" for
        none.
    """

    encoder: str = "roberta-base"
    seed: int = 0
    dev_fraction: float = 0.1
    max_length: int = 512
    epochs: int = 10
    minutes: float = 0.0
    batch_size: int = 48
    learning_rate: float = 3e-5
    warmup: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-6
    weight_decay: float = 0.01
    frozen: float = 0.5
    concept_frozen: float = 0.0
    pooling: Pooling = "mean"
    temperature: float = 5.0
    bias: float = 0.0
    max_concepts: int = 0
    mask_similar: float = 0.0
    dropout: bool = True
    precision: Precision = "float32"
    cache_frozen: bool = False
    keep: Keep = "last"
    log_with: str = ""

    def __post_init__(self) -> None:
        for name, kind in (("pooling", Pooling), ("precision", Precision), ("keep", Keep)):
            if getattr(self, name) not in get_args(kind):
                self._refuse(name, " or ".join(f"'{value}'" for value in get_args(kind)))
        if self.keep == "dev_loss" and not self.dev_fraction:
            self._refuse("keep", "'last' without held-out passages (dev_fraction = 0)")
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                self._refuse(name, "at least 1")
        for name in ("learning_rate", "temperature"):
            if getattr(self, name) <= 0:
                self._refuse(name, "more than 0")
        if self.minutes < 0:
            self._refuse("minutes", "at least 0")
        loggers = [str(each) for each in get_available_trackers()]
        if self.log_with and self.log_with not in loggers:
            there = ", ".join(loggers) or "none"
            self._refuse("log_with", f"'' or a logger whose package is installed: {there}")
        if not 0 <= self.mask_similar <= 1:
            self._refuse("mask_similar", "0 for none, or a cosine up to 1")
        for name in ("dev_fraction", "warmup", "frozen", "concept_frozen"):
            if not 0 <= getattr(self, name) < 1:
                self._refuse(name, "at least 0 and less than 1")

    def _refuse(self, name: str, expected: str) -> None:
        value = getattr(self, name)
        raise ValueError(f"[pretraining] {name} = {value!r} is not possible: expected {expected}.")


def read_settings(path: Path, overrides: dict[str, Any] | None = None) -> PretrainSettings:
    """Read and check a .cfg file.

    path (Path): The file, with one section [pretraining].
    overrides (dict[str, Any] | None): Values by dotted name, such as "pretraining.epochs".
    RETURNS (PretrainSettings): The settings; what the file leaves out is the paper's.
    RAISES (ValueError): A section, a setting or a value is not possible.
    """
    config = Config().from_disk(path, overrides=overrides or {})
    if set(config) != {"pretraining"}:
        raise ValueError(f"{path} has the sections {sorted(config)}, expected one: [pretraining].")
    known = {field.name: field.default for field in fields(PretrainSettings)}
    values = dict(config["pretraining"])
    for name, value in values.items():
        if name not in known:
            raise ValueError(
                f"[pretraining] in {path} has no setting '{name}'. Known settings: "
                f"{', '.join(known)}."
            )
        kind = type(known[name])
        if kind is float and type(value) is int:
            values[name] = float(value)
        elif type(value) is not kind:
            raise ValueError(
                f"[pretraining] {name} = {value!r} in {path} is a {type(value).__name__}, "
                f"expected a {kind.__name__}."
            )
    return PretrainSettings(**values)
