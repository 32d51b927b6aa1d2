"""Training within a limit of time: the schedule runs out by steps or by the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from torch.optim.lr_scheduler import LambdaLR

_Scheduler = TypeVar("_Scheduler", bound=LambdaLR)


class TimeBudget:
    """How far a training has come: by its steps, or by its time if that is running out first.

    A machine that is fast enough takes every step and never notices the limit. A slower one takes
    fewer, but each phase of its schedule keeps its share of them, and the rate still ends at zero.

    steps (int): All steps of the training.
    minutes (float): The limit; 0 for none.
    spent (float): Seconds that an earlier part of this training has taken.
    """

    def __init__(self, steps: int, minutes: float = 0.0, spent: float = 0.0) -> None:
        self.steps = steps
        self.seconds = 60 * minutes
        self.start(spent)

    def start(self, spent: float = 0.0) -> None:
        """Set the clock.

        spent (float): Seconds that have been spent already.
        """
        self._start = time.monotonic() - spent

    @property
    def spent(self) -> float:
        """RETURNS (float): Seconds since the training began."""
        return time.monotonic() - self._start

    def progress(self, step: int) -> float:
        """How much of the training is done.

        step (int): Steps taken.
        RETURNS (float): From 0 to 1.
        """
        by_time = self.spent / self.seconds if self.seconds else 0.0
        return min(1.0, max(step / self.steps, by_time))

    def pace(self, scheduler: _Scheduler) -> _Scheduler:
        """Let a schedule of the learning rate follow the progress in place of the steps.

        scheduler (LambdaLR): Made for `steps` steps; changed in place.
        RETURNS (LambdaLR): The same.
        """

        def paced(rate: Callable[[int], float]) -> Callable[[int], float]:
            return lambda step: rate(round(self.progress(step) * self.steps))

        scheduler.lr_lambdas = [paced(rate) for rate in scheduler.lr_lambdas]
        return scheduler
