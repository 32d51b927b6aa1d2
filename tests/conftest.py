"""Shared fixtures: the tiny models, saved once a session."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import settings
from weasel.util import load_project_config

from tests import tiny

# A busy machine is no failure.
settings.register_profile("spacy-universalner", deadline=None)
settings.load_profile("spacy-universalner")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny tensors are slower on several threads, and results must not depend on their number."""
    torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    # Weasel makes a project's folders when it reads it; the workers would all try at once.
    if not hasattr(config, "workerinput"):
        load_project_config(Path(__file__).parent.parent)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_llama(tmp_path_factory.mktemp("tiny") / "llama")


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_gpt2(tmp_path_factory.mktemp("tiny") / "gpt2")


@pytest.fixture(scope="session")
def tiny_neox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_neox(tmp_path_factory.mktemp("tiny") / "neox")


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an encoder."""
    return tiny.make_bert(tmp_path_factory.mktemp("tiny") / "bert")


@pytest.fixture(scope="session")
def tiny_bert_decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a causal decoder with BERT's layers."""
    return tiny.make_bert_decoder(tmp_path_factory.mktemp("tiny") / "bert-decoder")
