"""The checkpoints that a Trainer has left, and which of them a kill has cut off."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end: the Trainer's state is what comes last.

    checkpoint (Path): Its folder.
    RETURNS (bool): Whether it can be gone on from.
    """
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text("utf8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    return True


def last_checkpoint(output: Path) -> str | None:
    """Find the last whole checkpoint of a run; a warning names those that were begun after it.

    output (Path): The run's folder.
    RETURNS (str | None): Its folder, or None if there is none.
    """
    found = {
        int(number): path
        for path in output.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if (number := path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")).isdecimal()
    }
    last = max((number for number, path in found.items() if is_whole(path)), default=-1)
    partial = [found[number].name for number in sorted(found) if number > last]
    if partial:
        warnings.warn(
            f"Passed over in {output}: {', '.join(partial)}, not written to the end (expected a "
            f"whole {TRAINER_STATE_NAME}). The run goes on from "
            f"{found[last].name if last in found else 'its start'}.",
            stacklevel=3,
        )
    return str(found[last]) if last in found else None
