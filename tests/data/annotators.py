"""Language models for annotation runs, made of rules: what they answer is known in advance."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Timer
from typing import Any, Iterable  # noqa: UP035 (spacy-llm compares these very types)

import spacy
from spacy_llm.registry import registry

from scripts.annotate import app
from spacy_universalner.ty import Answer

spacy.blank("en")  # imports every plugin: a process forked from here starts at once

Prompts = Iterable[Iterable[Any]]
LLM_CONFIG = """
[model]
@llm_models = "test.Capitals.v1"
log = "{log}"
seconds = {seconds}
failing = "{failing}"
kill_once = "{kill_once}"

[requires]
env = {env}
"""


@registry.llm_models("test.Capitals.v1")
def make_capitals_model(
    log: str, seconds: float = 0.0, failing: str = "", kill_once: str = ""
) -> CapitalsModel:
    return CapitalsModel(Path(log), seconds, failing, kill_once)


@registry.llm_models("test.Named.v1")
def make_named_model(name: str) -> Callable[[Prompts], Prompts]:
    """A plain model of spacy-llm's kind, which does not say what its answers depend on."""
    return lambda prompts: [[f"Ada <> {name}" for _ in document] for document in prompts]


class CapitalsModel:
    """Finds capitalised words, four requests at once; every request leaves a line in a log."""

    concurrency = 4
    identity = "capitals"
    dies_at: tuple[int, float] | None = None  # requests, and seconds from then

    def __init__(self, log: Path, seconds: float, failing: str, kill_once: str) -> None:
        self.log = log
        self.seconds = seconds
        self.failing = failing
        self.kill_once = kill_once
        self.asked = 0

    def __call__(self, prompts: Iterable[Iterable[Any]]) -> Iterable[Iterable[Any]]:
        for answers in self.answer([list(document) for document in prompts]):
            yield [answer.text for answer in answers]

    def answer(self, prompts: Iterable[Sequence[str]]) -> Iterator[list[Answer]]:
        for document in prompts:
            yield [self._answer(prompt) for prompt in document]

    def _answer(self, prompt: str) -> Answer:
        text = prompt.rpartition("Input: ")[2]
        append(self.log, text)
        self.asked += 1
        if self.dies_at and self.asked == self.dies_at[0]:
            Timer(self.dies_at[1], os.kill, (os.getpid(), signal.SIGKILL)).start()
        if self.kill_once and self.asked == 40 and not Path(self.kill_once).exists():
            Path(self.kill_once).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.seconds)
        if self.failing and self.failing in text:
            return Answer("", error="the server is on fire")
        words = dict.fromkeys(re.findall(r"\b[A-Z]\w+", text))
        return Answer("\n".join(f"{word} <> name <> starts with {word[0]}" for word in words))


def append(path: Path, line: str) -> None:
    """Add a line in one write, so that lines of several threads and processes do not mix."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def read_log(path: Path) -> list[str]:
    return path.read_text("utf8").splitlines() if path.exists() else []


def write_llm_config(
    path: Path,
    log: Path,
    *,
    seconds: float = 0.0,
    failing: str = "",
    kill_once: Path | str = "",
    env: str = "[]",
) -> Path:
    config = LLM_CONFIG.format(
        log=log, seconds=seconds, failing=failing, kill_once=kill_once, env=env
    )
    path.write_text(config, encoding="utf8")
    return path


def run(*arguments: object) -> None:
    """`python -m scripts.annotate` in this process."""
    app([str(argument) for argument in arguments], standalone_mode=False)


def run_and_die(requests: int, seconds: float, *arguments: object) -> None:
    """The same, ended by `kill -9` so many seconds after so many requests."""
    CapitalsModel.dies_at = (requests, seconds)
    run(*arguments)
