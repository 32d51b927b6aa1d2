"""The state of a pre-training run on disk, from which it goes on after a kill."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor


class Checkpoint:
    """A file that holds the state of one run, and never that of another.

    path (Path): The file.
    fingerprint (str): What the run's result depends on.
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
        state: dict[str, Any] = torch.load(self.path, weights_only=True)
        if state["fingerprint"] == self.fingerprint:
            return state
        aside = self.path.with_name(f"checkpoint-{state['fingerprint'][:8]}.pt")
        self.accelerator.wait_for_everyone()  # until all have read it
        if self.accelerator.is_main_process:
            self.path.replace(aside)
            warnings.warn(
                f"{self.path} is of a run with other settings or passages, and is {aside} now. To "
                "go on with that run, give it its name back; else delete it.",
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
