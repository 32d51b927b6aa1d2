"""Tiny public data sets, and how to run a command of the project."""

from __future__ import annotations

import runpy
import shlex
import sys
from pathlib import Path

import pytest

# What these hand to processes of their own must be found in a main module that can be imported.
WITHOUT_PROCESSES = {"scripts.evaluate_fine_tuned": ["--jobs", "1"]}


def write_sentences(path: Path, count: int, labels: tuple[str, str], *, tag_first: bool) -> None:
    """Sentences with a person and, every other time, a place, in columns."""
    lines = []
    for i in range(count):
        tagged = [("Marie", f"B-{labels[0]}"), ("Curie", f"I-{labels[0]}"), ("saw", "O")]
        tagged += [("Paris", f"B-{labels[1]}")] if i % 2 else [(f"{i}", "O")]
        lines += ["\t".join(pair[::-1] if tag_first else pair) for pair in tagged] + [""]
    path.write_text("\n".join(lines), "utf8")


def run(command: str, code: int = 0) -> None:
    """Run a command of the project in this process and expect an exit code."""
    parts = shlex.split(command)
    if "scripts.stage" in parts:  # it only keeps the time
        parts = parts[parts.index("--") + 1 :]
    python, dash_m, module, *arguments = parts
    assert (python, dash_m) == ("python", "-m")
    sys.argv = [module, *arguments, *WITHOUT_PROCESSES.get(module, ())]
    sys.modules.pop(module, None)
    with pytest.raises(SystemExit) as done:
        runpy.run_module(module, run_name="__main__")
    assert (done.value.code or 0) == code, command


def write_benchmarks(folder: Path) -> None:
    """The files of the three few-shot data sets, 12 sentences to draw from and 4 to test on."""
    folder.mkdir(parents=True)
    labels = {"mit_movie": ("ACTOR", "CITY"), "mit_restaurant": ("Chef", "Town")}
    for name, pair in labels.items():
        write_sentences(folder / f"{name}_train.txt", 12, pair, tag_first=True)
        write_sentences(folder / f"{name}_test.txt", 4, pair, tag_first=True)
    write_sentences(folder / "jnlpba_devel.txt", 12, ("protein", "DNA"), tag_first=False)
    write_sentences(folder / "jnlpba_test.txt", 4, ("protein", "DNA"), tag_first=False)
