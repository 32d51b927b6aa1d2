from __future__ import annotations

import json
from pathlib import Path

import pytest

from spacy_universalner.data.annotation.templates import render_prompt
from spacy_universalner.ty import AnsweringModel, ModelWithIdentity
from spacy_universalner.universal_ner.models.recorded import make_recorded_model


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "responses.jsonl"
    rows = [{"text": "Ada.", "response": "Ada <> person"}, {"text": "Hm.", "response": ""}]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf8")
    return path


def test_it_answers_by_the_prompt_of_the_template(recording: Path) -> None:
    model = make_recorded_model(recording, "nuner")
    prompts = [[render_prompt("nuner", "Hm.")], [render_prompt("nuner", "Ada.")] * 2]
    assert list(model(prompts)) == [[""], ["Ada <> person", "Ada <> person"]]
    assert isinstance(model, AnsweringModel)
    assert isinstance(model, ModelWithIdentity)


def test_a_prompt_it_does_not_hold_is_a_clear_error(recording: Path) -> None:
    model = make_recorded_model(recording, "nuner")
    with pytest.raises(ValueError, match=r"no response to the prompt that ends in .*Passage: Ada"):
        list(model([[render_prompt("uniner", "Ada.")]]))
    ((known, unknown),) = model.answer([[render_prompt("nuner", "Ada."), "Ada."]])
    assert (known.text, known.error) == ("Ada <> person", None)
    assert unknown.text == ""
    assert "with the template 'nuner'; for others name a live model" in str(unknown.error)


def test_another_recording_is_another_model(recording: Path) -> None:
    before = make_recorded_model(recording, "nuner").identity
    assert make_recorded_model(recording, "nuner").identity == before
    recording.write_text('{"text": "Ada.", "response": "Ada <> name"}', encoding="utf8")
    assert make_recorded_model(recording, "nuner").identity != before


def test_a_line_that_is_no_recording_is_named(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('\n{"text": "Ada."}\n', encoding="utf8")
    with pytest.raises(ValueError, match=r'texts.jsonl:2: a recording needs "text" and "response"'):
        list(make_recorded_model(path, "nuner")([["Ada."]]))
