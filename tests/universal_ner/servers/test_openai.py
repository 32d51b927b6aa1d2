"""Requests to a server that does as the test says, well or badly."""

from __future__ import annotations

import multiprocessing
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacy_universalner.ty import (
    Answer,
)
from spacy_universalner.universal_ner.models import openai as module
from spacy_universalner.universal_ner.models.responses import ResponseError
from spacy_universalner.universal_ner.prompt import build_prompt
from tests.scripted_server import answer, ask_model, drip, drop, half, hang, reply, run
from tests.universal_ner.servers.asking import ask, make_model

OK = [answer("[]")]

# How long a request that never ends is waited for; all others have what a busy machine needs.
PATIENCE = {hang: 1.2, drip: 1.2}


def test_completions_sends_the_exact_prompt():
    prompt = build_prompt("Bonn lies on the Rhine.", "river")
    with run({str(prompt): [answer(' ["Rhine"]')]}) as server:
        assert ask(server.base_url, [prompt]) == [Answer(' ["Rhine"]')]
    (request,) = server.requests
    assert request.path == "/v1/completions"
    assert request.body == {
        "model": "m",
        "prompt": str(prompt),
        "max_tokens": 256,
        "temperature": 0.0,
        "stop": ["</s>"],
        "logprobs": 1,
    }


def test_chat_sends_one_user_message_after_the_system_message():
    with run({"List them.": OK}) as server:
        ask(
            server.base_url,
            ["List them."],
            api="chat",
            system="Be terse.",
            max_new_tokens=None,
            temperature=None,
            stop=(),
            extra_body={"max_completion_tokens": 9, "seed": 1},
        )
    (request,) = server.requests
    assert request.path == "/v1/chat/completions"
    assert request.body == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be terse."},
            {"role": "user", "content": "List them."},
        ],
        "logprobs": True,
        "max_completion_tokens": 9,
        "seed": 1,
    }


@pytest.mark.parametrize(
    "api_key_env,sent", [("OTHER_KEY", "secret"), ("UNSET_KEY", "none"), (None, "none")]
)
def test_only_the_named_key_is_sent_and_only_to_base_url(monkeypatch, api_key_env, sent):
    monkeypatch.setenv("OTHER_KEY", "secret")
    monkeypatch.setenv("OPENAI_API_KEY", "not for this server")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "not for this server")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://192.0.2.1/v1")
    with run({"a": OK}) as server:
        assert ask(server.base_url, ["a"], api_key_env=api_key_env)[0].error is None
    (request,) = server.requests
    assert request.headers["Authorization"] == f"Bearer {sent}"
    assert "not for this server" not in str(request.headers)


def test_a_redirect_is_not_followed():
    with run({"a": OK}) as elsewhere:
        location = {"Location": f"{elsewhere.base_url}/completions"}
        with run({"a": [reply("{}", 307, location)]}) as server:
            (got,) = ask(server.base_url, ["a"])
    assert "HTTP 307" in got.error
    assert server.tries() == {"a": 1} and elsewhere.requests == []


@pytest.mark.parametrize(
    "behaviours,tries",
    [
        ([answer("[]")], 1),
        ([reply("{}", 429, {"Retry-After": "0"}), answer("[]")], 2),
        ([reply("{}", 429), reply("{}", 429), answer("[]")], 3),
        ([reply("boom", 500), answer("[]")], 2),
        ([reply("loading", 503, {"Retry-After": "soon"}), answer("[]")], 2),
        ([reply("", 503, {"Retry-After": "Mon, 01 Jan 99999 00:00:00 GMT"}), answer("[]")], 2),
        ([drop, answer("[]")], 2),
        ([half, answer("[]")], 2),
        ([reply(b"<html>"), answer("[]")], 2),
        ([reply('{"choices": [{"te'), answer("[]")], 2),
        ([reply({"choices": []}), answer("[]")], 2),
        ([reply({"error": {"message": "busy"}}), answer("[]")], 2),
        ([reply("null"), answer("[]")], 2),
        ([hang, answer("[]")], 2),
        ([drip, answer("[]")], 2),
    ],
)
def test_what_may_pass_is_tried_again(behaviours, tries):
    with run({"a": behaviours}) as server:
        patience = PATIENCE.get(behaviours[0], 60)
        assert ask(server.base_url, ["a"], max_request_time=patience) == [Answer("[]")]
        assert server.tries() == {"a": tries}


@pytest.mark.parametrize(
    "behaviour,tries,reason",
    [
        (reply("no more today", 429, {"Retry-After": "3600"}), 1, "HTTP 429, no more today"),
        (reply("slow down", 429), 3, "HTTP 429, slow down"),
        (reply("boom", 500), 3, "HTTP 500, boom"),
        (reply({"error": {"message": "prompt too long"}}, 400), 1, "prompt too long"),
        (reply("who are you", 401), 1, "environment variable OPENAI_API_KEY"),
        (reply({"error": {"message": "no model m"}}, 404), 1, "no model m"),
        (drop, 3, "Server disconnected"),
        (half, 3, "peer closed connection"),
        (reply("<html>"), 3, "the response holds no answer: '<html>'"),
        (reply({"choices": []}), 3, "the response holds no answer: '{\"choices\": []}'"),
        (hang, 3, "nothing came within max_request_time = 1.2 s"),
        (drip, 3, "nothing came within max_request_time = 1.2 s"),
    ],
)
def test_a_prompt_that_fails_says_why_and_loses_no_neighbour(behaviour, tries, reason):
    documents = [["a", "b"], ["bad"], [], ["c", "bad", "d"]]
    script = {"bad": [behaviour], **{name: [answer(name)] for name in "abcd"}}
    with run(script) as server:
        model = make_model(server.base_url, max_request_time=PATIENCE.get(behaviour, 60))
        got = list(model.answer(documents))
        assert server.tries() == {"a": 1, "b": 1, "c": 1, "d": 1, "bad": 2 * tries}
    assert [[each.text for each in document] for document in got] == [
        ["a", "b"],
        [""],
        [],
        ["c", "", "d"],
    ]
    errors = [each.error for document in got for each in document if each.error is not None]
    assert len(errors) == 2 and errors[0] == errors[1]
    assert errors[0].startswith(f"No answer from 'm' at {server.base_url}, tried {tries} x: ")
    assert reason in errors[0]


def test_a_model_that_wrote_no_text_is_not_asked_again():
    with run({"a": [answer(None, "content_filter")]}) as server:
        (got,) = ask(server.base_url, ["a"], api="chat")
    assert got.text == "" and "content_filter" in got.error
    assert server.tries() == {"a": 1}


def test_a_server_that_is_not_there_is_an_error_of_each_prompt():
    with run({}) as server:
        pass
    for got in ask(server.base_url, ["a", "b"]):
        assert "tried 3 x: Connection error." in got.error


def test_a_prompt_that_cannot_be_sent_is_an_error_of_its_own():
    with run({"a": OK}) as server:
        good, bad = ask(server.base_url, ["a", "\ud800"])
    assert good == Answer("[]")
    assert "surrogates not allowed" in bad.error


def test_plain_spacy_llm_use_raises():
    with run({"a": OK, "b": [reply("no", 400)]}) as server:
        model = make_model(server.base_url)
        assert list(model([["a"], ["a", "a"]])) == [["[]"], ["[]", "[]"]]
        with pytest.raises(RuntimeError, match="HTTP 400, no"):
            list(model([["a"], ["b"]]))


def test_retry_after_in_seconds_is_waited_for():
    with run({"a": [reply("{}", 429, {"Retry-After": "1"}), answer("[]")]}) as server:
        assert ask(server.base_url, ["a"])[0].error is None
    first, second = server.requests
    assert second.time - first.time >= 1


def test_retry_after_as_a_date_is_waited_for():
    date = int(time.time()) + 2
    limit = reply("{}", 503, {"Retry-After": formatdate(date, usegmt=True)})
    with run({"a": [limit, answer("[]")]}) as server:
        assert ask(server.base_url, ["a"])[0].error is None
    assert server.requests[1].time >= date


@given(tries=st.integers(1, 2000), interval=st.floats(0.001, 60))
def test_waiting_doubles_with_jitter_up_to_a_limit(tries, interval):
    full = min(interval * 2 ** min(tries - 1, 60), module.LONGEST_WAIT)
    wait = module._wait_after(ResponseError("x"), tries, interval)
    assert full / 2 <= wait <= full


def test_as_many_requests_as_allowed_are_in_flight():
    together = threading.Barrier(3)
    lock = threading.Lock()
    in_flight, most = 0, 0

    def behave(handler):
        nonlocal in_flight, most
        with lock:
            in_flight += 1
            most = max(most, in_flight)
        together.wait(timeout=30)
        with lock:
            in_flight -= 1
        answer("[]")(handler)

    names = [str(i) for i in range(12)]
    with run({name: [behave] for name in names}) as server:
        got = list(make_model(server.base_url, concurrency=3).answer([name] for name in names))
    assert got == [[Answer("[]")]] * 12
    assert most == 3


def test_order_is_kept_when_the_first_comes_last():
    others_done = threading.Event()
    names = [str(i) for i in range(6)]

    def last(handler):
        assert others_done.wait(timeout=30)
        answer("0")(handler)

    def final(handler):
        others_done.set()
        answer("5")(handler)

    script = {name: [answer(name)] for name in names} | {"0": [last], "5": [final]}
    with run(script) as server:
        model = make_model(server.base_url, concurrency=2, max_request_time=30)
        got = list(model.answer([[names[0]], names[1:4], names[4:]]))
    assert [[each.text for each in document] for document in got] == [
        ["0"],
        ["1", "2", "3"],
        ["4", "5"],
    ]


def test_a_stream_is_read_ahead_no_further_than_requests_can_be_under_way():
    read = []

    def documents():
        for i in range(100):
            read.append(i)
            yield ["a"]

    with run({"a": OK}) as server:
        stream = make_model(server.base_url, concurrency=2).answer(documents())
        next(stream)
        assert len(read) == 2 * module.LOOK_AHEAD + 1
        assert len(list(stream)) == 99


def test_whoever_stops_listening_stops_the_requests():
    with run({"a": OK, "b": [hang]}) as server:
        stream = make_model(server.base_url, concurrency=1, max_request_time=600).answer(
            [["a"]] + [["b"]] * 10
        )
        assert next(stream) == [Answer("[]")]
        while "b" not in server.tries():
            time.sleep(0.001)
        stream.close()
        assert server.hung_up.wait(timeout=30)
        assert server.tries()["b"] == 1


def test_threads_may_ask_at_once_from_the_very_first_request():
    names = [str(i) for i in range(16)]
    for _ in range(5):
        module._background_loop.cache_clear()
        at_once = threading.Barrier(len(names))

        def ask_one(name, at_once=at_once):
            at_once.wait(timeout=30)
            return ask(server.base_url, [name])[0].text

        with (
            run({name: [answer(name)] for name in names}) as server,
            ThreadPoolExecutor(len(names)) as pool,
        ):
            assert list(pool.map(ask_one, names)) == names
            assert server.tries() == dict.fromkeys(names, 1)


def test_works_beside_a_running_event_loop():
    import asyncio

    async def in_a_notebook(base_url):
        return ask(base_url, ["a"])

    with run({"a": OK}) as server:
        assert asyncio.run(in_a_notebook(server.base_url)) == [Answer("[]")]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_works_in_other_processes_after_this_one_has_asked(method):
    with run({"a": OK, "b": [answer("b")]}) as server:
        model = make_model(server.base_url)
        assert list(model([["a"]])) == [["[]"]]
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.apply(ask_model, (model, [["a"], ["b"]])) == [["[]"], ["b"]]


def test_an_answer_to_our_prompts_ends_where_its_list_closes():
    asked = build_prompt("x", "person")
    text = ' ["a]", "b"] USER: and now'
    with run({str(asked): [answer(text, "length")]}) as server:
        assert ask(server.base_url, [asked]) == [Answer(' ["a]", "b"]')]


def test_an_answer_to_other_prompts_is_left_whole():
    text = '["a"]\nand <> so <> on'
    with run({"a": [answer(text)]}) as server:
        assert ask(server.base_url, ["a"]) == [Answer(text)]
