"""Settings files of pre-training."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from spacy_universalner.nuner.pretrain_settings import PretrainSettings, read_settings

ROOT = Path(__file__).parents[2]


def test_the_papers_settings_are_the_defaults():
    found = read_settings(ROOT / "configs" / "pretrain_paper.cfg")
    assert found == PretrainSettings(precision="auto")


def test_a_logger_that_is_not_there_is_named():
    message = "log_with = 'slate' is not possible: expected '' or a logger whose package"
    with pytest.raises(ValueError, match=message):
        replace(PretrainSettings(), log_with="slate")


@pytest.mark.parametrize("folder", ["configs", "configs/test"])
def test_the_projects_settings_are_complete(folder):
    text = (ROOT / folder / "pretrain_mini.cfg").read_text()
    for name in asdict(PretrainSettings()):
        assert f"\n{name} = " in text, name
    read_settings(ROOT / folder / "pretrain_mini.cfg")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("epoch = 3", r"has no setting 'epoch'\. Known settings: encoder, seed"),
        ("minutes = -1", r"minutes = -1\.0 is not possible: expected at least 0"),
        ("mask_similar = 2.0", r"mask_similar = 2\.0 is not possible: expected 0 for none"),
        ("epochs = 0", r"epochs = 0 is not possible: expected at least 1"),
        ("epochs = 2.5", r"epochs = 2\.5 in .* is a float, expected a int"),
        ('learning_rate = "low"', r"learning_rate = 'low' in .* is a str, expected a float"),
        ("frozen = 1.0", r"frozen = 1\.0 is not possible: expected at least 0 and less than 1"),
        ('pooling = "max"', r"pooling = 'max' is not possible: expected 'mean' or 'first'"),
    ],
)
def test_bad_settings_are_named(tmp_path, line, message):
    path = tmp_path / "pretrain.cfg"
    path.write_text(f"[pretraining]\n{line}\n")
    with pytest.raises(ValueError, match=message):
        read_settings(path)


def test_other_sections_are_refused(tmp_path):
    path = tmp_path / "pretrain.cfg"
    path.write_text("[training]\nepochs = 3\n")
    with pytest.raises(ValueError, match=r"sections \['training'\], expected one: \[pretraining\]"):
        read_settings(path)


def test_settings_can_be_overridden(tmp_path):
    path = tmp_path / "pretrain.cfg"
    path.write_text("[pretraining]\nlearning_rate = 1\n")
    found = read_settings(path, {"pretraining.epochs": 4})
    assert found == PretrainSettings(learning_rate=1.0, epochs=4)
