"""What the modules on fine-tuning share."""

from __future__ import annotations

from pathlib import Path

import pytest

FAMILIES = ("tiny_llama", "tiny_gpt2", "tiny_neox", "tiny_bert_decoder")


@pytest.fixture(params=FAMILIES)
def folder(request) -> Path:
    return request.getfixturevalue(request.param)
