"""Torch in the processes that `nlp.pipe(n_process=...)` forks."""

from __future__ import annotations

import os
from functools import cache

import torch


@cache
def make_forks_safe() -> None:
    """Let torch compute on one thread in every process that is forked from this one.

    A fork has none of the threads that OpenMP has started, but would wait for them forever.
    """
    if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))
