"""Settings files of fine-tuning."""

from __future__ import annotations

from pathlib import Path

import pytest

from spacy_universalner.universal_ner.finetune_settings import (
    DataSettings,
    FinetuneSettings,
    read_settings,
)

ROOT = Path(__file__).parents[2]


def test_settings_are_read_and_overridden(tmp_path):
    path = tmp_path / "finetune.cfg"
    path.write_text('[data]\nattend = "question"\n\n[training]\nlearning_rate = 3e-4\n')
    found = read_settings(path, {"training.learning_rate": 1e-3})
    assert found == FinetuneSettings(DataSettings(attend="question"), {"learning_rate": 1e-3})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[date]\n", "no section 'date'. Known sections: budget, copying, data, lora, training"),
        ("[data]\nlength = 3\n", r"\[data\] in .* no setting 'length'. Known .*max_length"),
        ("[training]\nlr = 1\n", r"\[training\] in .* no setting 'lr'. Known .*learning_rate"),
        ('[training]\noutput_dir = "x"\n', "no setting 'output_dir'"),
        ("[budget]\nminutes = -1\n", r"minutes = -1 in \[budget\]: expected at least 0"),
        ('[data]\nattend = "all"\n', "attend = 'all'.*'conversation'"),
        ("[copying]\nratio = 2\n", "ratio = 2.*between 0 and 1"),
        ("[copying]\nsteps = -1\n", r"steps = -1 in \[copying\]: expected at least 0"),
        ('[copying]\nmodels = "llama"\n', "models = 'llama'.*'encoders' or 'all'"),
        ("[copying]\nshare = 0.5\n", "no setting 'share'. Known settings: copy_layers, guidance, "),
    ],
)
def test_unknown_settings_are_named(tmp_path, text, message):
    path = tmp_path / "finetune.cfg"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_settings(path)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("finetune_*.cfg")), ids=str)
def test_shipped_settings_are_valid(path):
    read_settings(path)
