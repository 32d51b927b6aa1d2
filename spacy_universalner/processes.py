"""Several processes that train as one."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed


@contextmanager
def leave_group_at_end() -> Iterator[None]:
    """At the end of a program, leave the group of processes that a training in it has joined.

    The group's threads call into the interpreter. One that still runs while the interpreter takes
    itself apart aborts the process, and with it a run whose results are written already.
    """
    try:
        yield
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            gc.collect()  # a sharded model refers to itself, and to the group
            torch.distributed.destroy_process_group()
