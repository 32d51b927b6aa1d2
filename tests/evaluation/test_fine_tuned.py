"""Which samples the fine-tuning protocol takes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import spacy
from click.testing import Result
from spacy.tokens import DocBin
from typer.testing import CliRunner

from scripts.evaluate_fine_tuned import app
from tests.nuner.test_component import SENTENCES, make_examples

ROOT = Path(__file__).parents[2]


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Samples of several sizes and seeds, and one of another unit."""
    docs = [example.reference for example in make_examples(spacy.blank("en"), SENTENCES)]
    DocBin(docs=docs).to_disk(tmp_path / "gold_test.spacy")
    (tmp_path / "samples").mkdir()
    for name in ("k1_seed0", "k1_seed1", "k2_seed0", "kw1_seed0"):
        shutil.copy(tmp_path / "gold_test.spacy", tmp_path / "samples" / f"gold_{name}.spacy")
    return tmp_path / "samples"


def run(samples: Path, encoder: Path, *options: object) -> Result:
    arguments = [ROOT / "configs" / "nuner.cfg", samples, samples.parent / "out", "--epochs", 1]
    arguments += ["--encoder", f"one={encoder}", "--test", samples.parent / "gold_test.spacy"]
    arguments += ["--jobs", 1, *options]
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), ["gold_k1_seed0", "gold_k1_seed1", "gold_k2_seed0"]),
        (("--k", "1", "--seeds", 1), ["gold_k1_seed0"]),
        (("--k", "1,2", "--seeds", 1), ["gold_k1_seed0", "gold_k2_seed0"]),
        (("--unit", "words"), ["gold_kw1_seed0"]),
    ],
)
def test_only_the_samples_asked_for_are_trained_on(
    samples: Path, tiny_bert: Path, options: tuple, expected: list[str]
):
    done = run(samples, tiny_bert, *options)
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    results = json.loads((samples.parent / "out" / "fine_tuned.json").read_text("utf8"))
    assert [each["sample"] for each in results["runs"]] == expected


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        (("--seeds", 2), "gold_k2_seed1.spacy"),
        (("--k", "1,4", "--seeds", 1), "gold_k4_seed0.spacy"),
        (("--k", "8"), "gold_k8_seed0.spacy"),
        (("--unit", "words", "--k", "1,2"), "gold_kw2_seed0.spacy"),
    ],
)
def test_samples_that_are_missing_are_named(
    samples: Path, tiny_bert: Path, options: tuple, missing: str
):
    done = run(samples, tiny_bert, *options)
    assert done.exit_code == 1 and not (samples.parent / "out").exists()
    told = "".join(done.output.split())
    assert re.findall(r"gold_kw?\d+_seed\d+.spacy", told) == [missing]
