"""Settings of models behind servers, and their configs."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import spacy
from spacy_llm.registry import registry
from thinc.api import Config

from spacy_universalner.data.annotation.run import load_annotator, stored_model
from spacy_universalner.ty import (
    AnsweringModel,
    ModelWithIdentity,
    ModelWithOffsets,
)
from spacy_universalner.universal_ner.models import openai as module
from tests.scripted_server import answer, run
from tests.universal_ner.servers.asking import make_model

ROOT = Path(__file__).parents[3]


CONFIGS = ("openai", "anthropic", "azure", "openai_compatible")


def test_identity_is_what_an_answer_depends_on():
    model = make_model("http://127.0.0.1:1/v1")
    assert isinstance(model, AnsweringModel) and isinstance(model, ModelWithIdentity)
    assert not isinstance(model, ModelWithOffsets)
    assert pickle.loads(pickle.dumps(model)) == model
    same = {"concurrency": 1, "max_tries": 9, "interval": 9, "max_request_time": 9}
    assert make_model(model.base_url, **same).identity == model.identity
    others = [
        {"name": "n"},
        {"base_url": "http://127.0.0.1:2/v1"},
        {"api": "chat"},
        {"api": "chat", "system": "s"},
        {"max_new_tokens": 1},
        {"temperature": 1.0},
        {"stop": ()},
        {"extra_body": {"seed": 1}},
        {"tokenizer": "t"},
    ]
    identities = {make_model(**{"base_url": model.base_url, **other}).identity for other in others}
    assert len(identities | {model.identity}) == len(others) + 1


@pytest.mark.parametrize(
    "setting,message",
    [
        ({"base_url": "localhost:8000"}, "base_url = 'localhost:8000': expected the address"),
        ({"api": "responses"}, "Unknown api 'responses'. Expected one of: completions, chat."),
        ({"system": "s"}, "needs api = 'chat'"),
        ({"concurrency": 0}, "concurrency = 0: expected more than 0."),
        ({"max_tries": 0}, "max_tries = 0: expected more than 0."),
        ({"max_request_time": 0}, "max_request_time = 0: expected more than 0."),
    ],
)
def test_settings_out_of_range_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        make_model(**{"base_url": "http://127.0.0.1:1/v1", **setting})


def test_without_the_extra_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'spacy-universalner\[openai\]'"):
        make_model("http://127.0.0.1:1/v1")


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_resolve_and_say_which_key_they_need(name, monkeypatch, tmp_path):
    path = ROOT / "configs" / "llm" / f"{name}.cfg"
    config = Config().from_disk(path)
    assert set(config) == {"model", "requires"}
    model = registry.resolve({"model": config["model"]})["model"]
    keys = config["requires"]["env"]
    assert keys == ([] if name == "openai_compatible" else [model.api_key_env])
    for annotation in ("annotate_nuner", "annotate_uniner"):
        arguments = {
            "config_path": ROOT / "configs" / f"{annotation}.cfg",
            "llm_path": path,
            "texts": tmp_path / "texts.jsonl",
            "store": tmp_path / "responses.sqlite",
        }
        for key in keys:
            monkeypatch.delenv(key, raising=False)
            with pytest.raises(OSError, match=f"needs {key} in the environment"):
                load_annotator(**arguments)
            monkeypatch.setenv(key, "secret")
        assert stored_model(load_annotator(**arguments)).model == model


def test_annotation_through_spacy_llm():
    nlp = spacy.blank("en")
    with run({}) as server:
        nlp.add_pipe(
            "llm",
            config={
                "task": {"@llm_tasks": "spacy-universalner.NuNERAnnotation.v1"},
                "model": {
                    "@llm_models": "spacy-universalner.OpenAI.v1",
                    "name": "m",
                    "base_url": server.base_url,
                    "api": "chat",
                },
            },
        )
        task = nlp.get_pipe("llm")._task
        for text, entity, concept in (
            ("Bonn lies on the Rhine.", "Rhine", "river"),
            ("Marie Curie moved to Paris.", "Marie Curie", "chemist"),
        ):
            (prompt,) = task.generate_prompts([nlp.make_doc(text)])
            server.script[prompt] = [answer(f"{entity} <> {concept} <> something")]
        docs = list(nlp.pipe(["Bonn lies on the Rhine.", "Marie Curie moved to Paris."]))
    found = [[(s.text, s.label_) for s in doc.spans["annotation"]] for doc in docs]
    assert found == [[("Rhine", "river")], [("Marie Curie", "chemist")]]
