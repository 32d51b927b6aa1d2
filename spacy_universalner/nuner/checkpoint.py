"""The state of a pre-training run on disk, from which it goes on after a kill."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel

from ..ty import Passage
from .pretrain_settings import PretrainSettings
from .probe import FewShotProbe


def fingerprint(
    settings: PretrainSettings,
    passages: Sequence[Passage],
    probe: FewShotProbe | None,
    encoder: PreTrainedModel,
) -> str:
    """Sum up all that the result of a run depends on.

    settings (PretrainSettings): How it is trained.
    passages (Sequence[Passage]): What on.
    probe (FewShotProbe | None): What scores it.
    encoder (PreTrainedModel): What it starts from, by its weights: a folder can change.
    RETURNS (str): A sha256 in hexadecimal.
    """
    probed = (probe.passages, probe.samples) if probe else None
    text = repr((replace(settings, log_with=""), passages, probed))
    digest = hashlib.sha256(text.encode("utf8"))
    for weight in encoder.state_dict().values():
        digest.update(weight.cpu().numpy().tobytes())
    return digest.hexdigest()


class Checkpoint:
    """A file that holds the state of one run, and never that of another.

    path (Path): The file.
    fingerprint (str): What the run's result depends on, see `fingerprint`.
    accelerator (Accelerator): Says which process writes.
    """

    def __init__(self, path: Path, fingerprint: str, accelerator: Accelerator) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self.accelerator = accelerator

    def save(self, state: dict[str, Any]) -> None:
        """Write the state in one piece: a crash leaves the earlier one or this one.

        state (dict[str, Any]): Tensors and plain values.
        """
        if not self.accelerator.is_main_process:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        torch.save({"fingerprint": self.fingerprint, **state}, part)
        part.replace(self.path)

    def load(self) -> dict[str, Any] | None:
        """Read the state; that of another run, which may be hours of work, is put aside.

        RETURNS (dict[str, Any] | None): The state, or None if there is none of this run.
        """
        if not self.path.exists():
            return None
        # It may be of a device that is not here, or is that of another process. What is restored
        # is copied to where the parameters are.
        state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        if state["fingerprint"] == self.fingerprint:
            return state
        aside = self.path.with_name(f"checkpoint-{state['fingerprint'][:8]}.pt")
        self.accelerator.wait_for_everyone()  # until all have read it
        if self.accelerator.is_main_process:
            self.path.replace(aside)
            warnings.warn(
                f"{self.path} is of a run with other settings, texts, probe or weights, and is "
                f"{aside} now. To go on with that run, give it its name back; else delete it.",
                stacklevel=2,
            )
        return None


def trained_parameters(model: torch.nn.Module) -> dict[str, Tensor]:
    """The parameters that are not frozen, by name."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


@torch.no_grad()
def load_parameters(model: torch.nn.Module, values: dict[str, Tensor]) -> None:
    """Set some of a model's parameters."""
    parameters = dict(model.named_parameters())
    for name, value in values.items():
        parameters[name].copy_(value)
