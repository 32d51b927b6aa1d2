"""Trainings side by side, each in a process of its own on its share of the cores.

The cores of a machine wait for one another at every small matrix product: on two cores, two
trainings on ten sentences at once take two thirds of the time that they take in turn.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import TypeVar

import torch
from spacy.cli._util import setup_gpu
from tqdm import tqdm

from spacy_universalner.evaluation.provenance import count_cores

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(
    train: Callable[[Item], Result],
    runs: Sequence[Item],
    *,
    jobs: int | None = None,
    gpu_id: int = -1,
    desc: str = "Training",
) -> Iterator[Result]:
    """Call a function on each item, and show how many are done.

    train (Callable[[Item], Result]): The function; it can be pickled, as its items and results.
    runs (Sequence[Item]): The items.
    jobs (int | None): Processes; 1 for this one. None for one a core, and this one with a GPU.
    gpu_id (int): GPU, or -1 for none.
    desc (str): What the progress bar says.
    YIELDS (Result): The results, each as soon as it is there.
    """
    cores = count_cores()
    if jobs is None:
        jobs = 1 if gpu_id >= 0 else cores
    jobs = min(jobs, len(runs))
    with tqdm(total=len(runs), desc=desc, unit="run") as bar:
        if jobs <= 1:
            setup_gpu(gpu_id, silent=True)
            for run in runs:
                yield train(run)
                bar.update()
            return
        pool = ProcessPoolExecutor(
            jobs, get_context("spawn"), initializer=_start, initargs=(max(1, cores // jobs), gpu_id)
        )
        try:
            for future in as_completed([pool.submit(train, run) for run in runs]):
                yield future.result()
                bar.update()
        finally:
            pool.shutdown(cancel_futures=True)


def _start(threads: int, gpu_id: int) -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    setup_gpu(gpu_id, silent=True)


def _end_with_parent() -> None:
    """A pool's processes do not notice that the one that started them was killed, and go on."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
