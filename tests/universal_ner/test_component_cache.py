"""`universal_ner` with the answers of earlier runs."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest
import spacy

from spacy_universalner.data.annotation.tasks import make_uniner_annotation_task
from spacy_universalner.data.store import ResponseStore
from tests.universal_ner.pipelines import TEXT, ents, make_nlp, pipe_of, places


def test_the_cache_answers_what_was_asked_before(tmp_path):
    config = {"cache": str(tmp_path / "answers.sqlite"), "window": 8, "stride": 2}
    texts = [TEXT, "", "Bo in Genoa"]
    nlp = make_nlp(**config)
    first = [places(doc) for doc in nlp.pipe(texts)]
    asked = sum(map(len, pipe_of(nlp).model.seen))
    assert len(ResponseStore(tmp_path / "answers.sqlite")) == asked == 12
    again = make_nlp(**config)
    assert [places(doc) for doc in again.pipe(texts)] == first
    assert pipe_of(again).model.seen == []
    # One more label is asked about, the others are not
    pipe_of(again).add_label("date")
    again(TEXT)
    assert {len(group) for group in pipe_of(again).model.seen} == {1}
    # Another model has answers of its own
    other = make_nlp(entities={"person": ["Bo"]}, **config)
    assert ents(other("Bo in Genoa")) == [("Bo", "person")]


def test_answers_are_stored_as_they_arrive_and_errors_are_not(tmp_path):
    path = tmp_path / "answers.sqlite"
    nlp = make_nlp(cache=str(path), labels=["person"])
    docs = nlp.pipe(["Bo 1", "Bo 2", "Bo 3"])
    next(docs)
    assert len(ResponseStore(path)) == 1
    nlp = make_nlp(cache=str(path), labels=["person"], on_error="record")
    list(nlp.pipe(["Bo 1", "BROKEN", "Bo 2"]))
    assert len(ResponseStore(path)) == 2


def test_the_cache_survives_processes_that_share_it(tmp_path):
    path = tmp_path / "answers.sqlite"
    nlp = make_nlp(cache=str(path), labels=["person"])
    texts = [f"Bo {i}" for i in range(20)]
    docs = list(nlp.pipe(texts, n_process=2, batch_size=3))
    assert all(ents(doc) == [("Bo", "person")] for doc in docs)
    assert len(ResponseStore(path)) == 20


def test_a_cache_needs_a_model_with_a_name(tmp_path):
    with pytest.raises(ValueError, match="Set cache = null, or wrap the model"):
        make_nlp("test.PlainGazetteer.v1", cache=str(tmp_path / "answers.sqlite"))


def add_stored(nlp, name: str, path, **config):
    model = {"@llm_models": name, "entities": {"person": ["Bo"]}}
    stored = {"@llm_models": "spacy-universalner.Stored.v1", "path": str(path), "model": model}
    config = {"labels": ["person"], "model": {**stored, "identity": "rules"}, **config}
    return nlp.add_pipe("universal_ner", config=config)


def test_a_failure_behind_a_store_is_no_answer(tmp_path):
    nlp = spacy.blank("en")
    cache = str(tmp_path / "answers.sqlite")
    pipe = add_stored(nlp, "test.PlainGazetteer.v1", tmp_path / "stored.sqlite", cache=cache)
    with pytest.raises(RuntimeError, match="ConnectionError: it is unreachable"):
        nlp("Bo may CRASH")
    pipe.on_error = "record"
    doc = nlp("Bo may CRASH")
    assert doc.ents == () and len(doc.user_data["universal_ner"]["errors"]) == 1
    assert len(ResponseStore(cache)) == 0
    assert ents(nlp("Bo")) == [("Bo", "person")]


def test_a_store_does_not_hide_a_model_that_needs_none(tmp_path):
    with pytest.raises(ValueError, match="around Gazetteer would hide its scores"):
        add_stored(spacy.blank("en"), "test.Gazetteer.v1", tmp_path / "stored.sqlite")


def test_an_annotation_run_may_keep_the_same_questions_in_the_same_file(tmp_path):
    store = ResponseStore(tmp_path / "answers.sqlite")
    nlp = make_nlp(labels=None, cache=str(store.path))
    task = make_uniner_annotation_task()
    (prompt,) = task.generate_prompts([nlp.make_doc("Bo in Genoa")])
    store.put(store.key(pipe_of(nlp).model.identity, prompt), "[('Bo', 'sailor')]")
    assert ents(nlp("Bo in Genoa")) == [("Bo", "person"), ("Genoa", "location")]


def test_killed_while_asking_loses_nothing_that_was_answered(tmp_path):
    def run_until_killed():
        nlp = make_nlp(cache=str(path), labels=["person"])
        answer = pipe_of(nlp).model._answer

        def deadly(prompt):
            if prompt.source == "Bo 3":
                os.kill(os.getpid(), signal.SIGKILL)
            return answer(prompt)

        pipe_of(nlp).model._answer = deadly
        list(nlp.pipe(texts))

    path, texts = tmp_path / "answers.sqlite", [f"Bo {i}" for i in range(1, 6)]
    process = multiprocessing.get_context("fork").Process(target=run_until_killed)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    nlp = make_nlp(cache=str(path), labels=["person"])
    assert all(ents(doc) == [("Bo", "person")] for doc in nlp.pipe(texts))
    assert [group[0].source for group in pipe_of(nlp).model.seen] == ["Bo 3", "Bo 4", "Bo 5"]
