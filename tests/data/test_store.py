from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sqlite3
from pathlib import Path
from threading import Timer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacy_universalner.data.store import ResponseStore
from spacy_universalner.ty import CutAnswer


@pytest.fixture
def store(tmp_path: Path) -> ResponseStore:
    return ResponseStore(tmp_path / "new" / "responses.sqlite")


def test_a_response_is_kept_as_it_is(store: ResponseStore) -> None:
    assert store.get("k") is None
    store.put("k", "<> “é” \n 𝄞")
    store.put("empty", "")
    assert store.get("k") == "<> “é” \n 𝄞"
    assert store.get("empty") == ""
    assert len(store) == 2
    assert ResponseStore(store.path).get("k") == "<> “é” \n 𝄞"


def test_a_response_that_was_cut_off_says_so(store: ResponseStore) -> None:
    store.put("whole", "a")
    store.put("cut", CutAnswer("a"))
    again = ResponseStore(store.path)
    assert again.get("cut") == again.get("whole") == "a"
    assert isinstance(again.get("cut"), CutAnswer)
    assert not isinstance(again.get("whole"), CutAnswer)
    again.put("cut", "whole now")
    assert not isinstance(store.get("cut"), CutAnswer)


def test_a_file_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "old.sqlite") as old:
        old.execute("CREATE TABLE responses (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        old.execute("INSERT INTO responses VALUES ('k', 'v')")
    assert ResponseStore(tmp_path / "old.sqlite").get("k") == "v"


def test_a_file_that_another_process_is_just_making_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "new.sqlite"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        ResponseStore(path, timeout=0.05)
    timer = Timer(0.3, other.execute, ["COMMIT"])
    timer.start()
    store = ResponseStore(path)
    timer.join()
    store.put("k", "v")
    assert ResponseStore(path).get("k") == "v"


def test_a_failure_is_no_response_and_ends_with_one(store: ResponseStore) -> None:
    store.fail("a", "timeout")
    store.fail("a", "refused")
    store.fail("b", "timeout")
    assert store.get("a") is None
    assert store.failures() == {"a": "refused", "b": "timeout"}
    store.put("a", "answer")
    assert store.failures() == {"b": "timeout"}


def test_the_key_depends_on_model_and_order_of_words() -> None:
    key = ResponseStore.key
    assert key("m", "a b") == key("m", "a b")
    assert len({key("m", "a b"), key("m", "b a"), key("n", "a b"), key("ma", " b")}) == 4
    assert key("m", "\ud800") != key("m", "\ud801")  # half of a surrogate pair is no error


@given(st.text(), st.text(), st.text(), st.text())
def test_different_requests_have_different_keys(
    identity: str, prompt: str, other: str, prompt2: str
) -> None:
    same = (identity, prompt) == (other, prompt2) or "\0" in identity + other
    assert same or ResponseStore.key(identity, prompt) != ResponseStore.key(other, prompt2)


def test_it_survives_pickling(store: ResponseStore) -> None:
    store.put("k", "v")
    assert pickle.loads(pickle.dumps(store)).get("k") == "v"


def _put_many(store: ResponseStore, name: str, count: int) -> None:
    for i in range(count):
        store.put(f"{name}{i}", name)


def test_forked_processes_write_the_same_file(store: ResponseStore) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_put_many, args=(store, name, 200)) for name in "abc"]
    for worker in workers:
        worker.start()
    _put_many(store, "d", 200)
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(store) == 800
    assert store.get("c199") == "c"


def _put_and_die(store: ResponseStore) -> None:
    store.put("last", "words")
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_was_put_survives_kill_9(store: ResponseStore) -> None:
    worker = multiprocessing.get_context("fork").Process(target=_put_and_die, args=(store,))
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    assert store.get("last") == "words"
