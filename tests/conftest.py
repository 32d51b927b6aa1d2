"""Shared fixtures: the tiny models, saved once a session."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings
from weasel.util import load_project_config

# Tiny tensors are slower on several threads, and results must not depend on their number; of
# processes that tests start, several run at once.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A busy machine is no failure.
settings.register_profile("spacy-universalner", deadline=None)
settings.load_profile("spacy-universalner")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    # Weasel makes a project's folders when it reads it; the workers would all try at once.
    if not hasattr(config, "workerinput"):
        load_project_config(Path(__file__).parent.parent)


def make(family: str, factory: pytest.TempPathFactory) -> Path:
    """A tiny model's folder. The process that only hands out tests to others needs no models."""
    from tests import tiny

    folder: Path = getattr(tiny, f"make_{family}")(factory.mktemp("tiny") / family)
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("llama", tmp_path_factory)


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("gpt2", tmp_path_factory)


@pytest.fixture(scope="session")
def tiny_neox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("neox", tmp_path_factory)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an encoder."""
    return make("bert", tmp_path_factory)


@pytest.fixture(scope="session")
def tiny_bert_decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a causal decoder with BERT's layers."""
    return make("bert_decoder", tmp_path_factory)
