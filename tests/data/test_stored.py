from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from threading import Barrier, Lock

import pytest

from spacy_universalner.data.annotation.stored import GROUP, StoredModel, make_stored_model
from spacy_universalner.data.store import ResponseStore
from spacy_universalner.ty import Answer, CutAnswer, NoAnswer


class Shouting:
    """A model of another library: the plain signature, and errors are raised."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, prompts: Iterable[Iterable[str]]) -> Iterable[Iterable[str]]:
        for document in prompts:
            prompts_ = list(document)
            self.seen += prompts_
            if "bad" in prompts_:
                raise ConnectionError("unplugged")
            yield [prompt.upper() for prompt in prompts_]


class Picky(Shouting):
    """A server that never answers some prompts, and none at all while it is down."""

    def __init__(self, *, down: bool = False) -> None:
        super().__init__()
        self.down = down

    def __call__(self, prompts: Iterable[Iterable[str]]) -> Iterable[Iterable[str]]:
        for (prompt,) in prompts:
            if self.down:
                raise ConnectionError("unplugged")
            if prompt.startswith("bad"):
                raise ValueError("content filter")
            yield from super().__call__([[prompt]])


class Batching:
    """A model that computes by itself: no concurrency, it sees groups."""

    identity = "batching"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, prompts: Iterable[Iterable[str]]) -> Iterable[Iterable[str]]:
        raise AssertionError("a model that answers is not called")

    def answer(self, prompts: Iterable[Sequence[str]]) -> Iterator[list[Answer]]:
        documents = list(prompts)
        self.batches.append(len(documents))
        for document in documents:
            yield [Answer(prompt[::-1]) for prompt in document]


def stored(model: object, path: Path, **settings: object) -> StoredModel:
    return make_stored_model(model, path=str(path), identity="m", **settings)  # type: ignore[arg-type]


def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    path = tmp_path / "responses.sqlite"
    model = Shouting()
    assert list(stored(model, path)([["a", "b"], ["a"]])) == [["A", "B"], ["A"]]
    assert model.seen == ["a", "b"]
    again = stored(model, path)
    assert list(again([["b"], ["c"]])) == [["B"], ["C"]]
    assert model.seen == ["a", "b", "c"]
    assert (again.asked, again.reused, again.failed) == (1, 1, 0)


def test_another_model_is_asked_anew(tmp_path: Path) -> None:
    model = Shouting()
    for identity in ("m, temperature 0", "m, temperature 1"):
        path = str(tmp_path / "responses.sqlite")
        list(make_stored_model(model, path=path, identity=identity)([["a"]]))
    assert model.seen == ["a", "a"]


def test_half_a_surrogate_pair_does_not_stop_a_run(tmp_path: Path) -> None:
    model = make_stored_model(
        lambda prompts: [["a face \ud83d"] for _ in prompts],
        path=str(tmp_path / "responses.sqlite"),
        identity="m",
    )
    assert list(model([["a"]])) == [["a face ?"]] == list(model([["a"]]))
    assert model.failed == 0


@pytest.mark.parametrize("concurrency", [None, 2])
def test_an_answer_that_was_cut_off_stays_one(tmp_path: Path, concurrency: int | None) -> None:
    class Cutting(Batching):
        def answer(self, prompts: Iterable[Sequence[str]]) -> Iterator[list[Answer]]:
            for (prompt,) in prompts:
                yield [Answer(prompt[:2], complete=len(prompt) < 3)]

    for _ in range(2):  # asked, and out of the store
        model = stored(Cutting(), tmp_path / "responses.sqlite", concurrency=concurrency)
        ((cut,), (whole,)) = model([["abc"], ["d"]])
        assert (cut, whole) == ("ab", "d")
        assert isinstance(cut, CutAnswer) and not isinstance(whole, CutAnswer)
    assert (model.asked, model.reused) == (0, 2)


@pytest.mark.parametrize("concurrency", [None, 1, 3])
def test_a_failure_stays_alone_and_is_tried_again(tmp_path: Path, concurrency: int | None) -> None:
    path = tmp_path / "responses.sqlite"
    model = stored(Shouting(), path, concurrency=concurrency)
    ((first,), (failed,), (last,)) = model([["a"], ["bad"], ["c"]])
    assert (first, last) == ("A", "C")
    assert isinstance(failed, NoAnswer)
    assert failed == "ConnectionError: unplugged"
    assert list(ResponseStore(path).failures().values()) == ["ConnectionError: unplugged"]
    second = stored(Shouting(), path)
    list(second([["a"], ["bad"], ["c"]]))
    assert (second.asked, second.reused, second.failed) == (1, 2, 1)


def test_many_failures_in_a_row_stop_the_run(tmp_path: Path) -> None:
    path = tmp_path / "responses.sqlite"
    model = stored(Shouting(), path, max_failures=2)
    list(model([["bad"], ["a"]]))
    list(model([["bad"], ["b"]]))  # an answer in between: no two in a row
    with pytest.raises(RuntimeError, match=r"2 requests in a row failed.*unplugged\nNothing is"):
        for _ in range(2):
            list(model([["bad"]]))
    assert len(ResponseStore(path)) == 2


@pytest.mark.parametrize("concurrency", [None, 3])
def test_known_failures_do_not_stop_a_resumed_run(tmp_path: Path, concurrency: int | None) -> None:
    path = tmp_path / "responses.sqlite"
    texts = [["bad 1"], ["a"], ["bad 2"], ["b"], ["bad 3"], ["bad 4"]]
    with pytest.raises(RuntimeError, match=r"2 requests in a row failed.*content filter"):
        model = stored(Picky(), path, max_failures=2)
        for document in texts:
            list(model([document]))
    # A server that is down now stops the run all the same.
    with pytest.raises(RuntimeError, match=r"2 requests in a row failed.*unplugged"):
        down = stored(Picky(down=True), path, concurrency=concurrency, max_failures=2)
        list(down([*texts, ["c"], ["d"]]))
    again = stored(Picky(), path, concurrency=concurrency, max_failures=2)
    *_, (c,), (d,) = again([*texts, ["c"], ["d"]])
    assert (c, d) == ("C", "D")
    assert (again.asked, again.reused, again.failed) == (6, 2, 4)
    assert set(ResponseStore(path).failures().values()) == {"ValueError: content filter"}


def test_requests_run_side_by_side(tmp_path: Path) -> None:
    barrier = Barrier(3, timeout=30)

    def waits(prompts: Iterable[Iterable[str]]) -> Iterable[Iterable[str]]:
        barrier.wait()  # passes only when three requests are under way at once
        return [list(document) for document in prompts]

    model = stored(waits, tmp_path / "responses.sqlite", concurrency=3)
    assert list(model([["a"], ["b"], ["c"]])) == [["a"], ["b"], ["c"]]
    assert model.asked == 3


def test_no_more_requests_than_the_limit_are_under_way(tmp_path: Path) -> None:
    lock, under_way, most = Lock(), 0, 0

    def counts(prompts: Iterable[Iterable[str]]) -> Iterable[Iterable[str]]:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.005)
        with lock:
            under_way -= 1
        return [list(document) for document in prompts]

    model = stored(counts, tmp_path / "responses.sqlite", concurrency=3)
    list(model([[str(number)] for number in range(40)]))
    assert most == 3


def test_a_model_without_concurrency_gets_groups(tmp_path: Path) -> None:
    model = Batching()
    wrapped = stored(model, tmp_path / "responses.sqlite")
    assert wrapped.identity == "batching"
    assert list(wrapped([["ab"], ["cd"], ["ab"]])) == [["ba"], ["dc"], ["ba"]]
    assert model.batches == [2]


def test_each_group_is_stored_before_the_next_is_asked(tmp_path: Path) -> None:
    class Killed(Batching):
        def answer(self, prompts: Iterable[Sequence[str]]) -> Iterator[list[Answer]]:
            if len(self.batches) == 2:
                raise KeyboardInterrupt
            yield from super().answer(prompts)

    path = tmp_path / "responses.sqlite"
    texts = [[f"text {i}"] for i in range(4 * GROUP)]
    with pytest.raises(KeyboardInterrupt):
        list(stored(Killed(), path)(texts))
    assert len(ResponseStore(path)) == 2 * GROUP
    model = Batching()
    assert list(stored(model, path)(texts)) == [[text[::-1]] for (text,) in texts]
    assert model.batches == [GROUP, GROUP]


def test_a_group_that_fails_is_asked_one_by_one(tmp_path: Path) -> None:
    class Small(Batching):
        def answer(self, prompts: Iterable[Sequence[str]]) -> Iterator[list[Answer]]:
            documents = list(prompts)
            for answers in super().answer(documents):
                if ["too long"] in documents and answers[0].text != "1":
                    raise MemoryError("CUDA out of memory")
                yield answers

    path = tmp_path / "responses.sqlite"
    for _ in range(2):
        model = Small()
        wrapped = stored(model, path)
        *answers, (failed,) = wrapped([["1"], ["2"], ["3"], ["too long"]])
        assert answers == [["1"], ["2"], ["3"]]
        assert isinstance(failed, NoAnswer)
        assert list(ResponseStore(path).failures().values()) == ["MemoryError: CUDA out of memory"]
    assert (wrapped.asked, wrapped.reused, wrapped.failed) == (1, 3, 1)
    stubborn = stored(Small(), tmp_path / "b.sqlite", max_failures=1)
    with pytest.raises(RuntimeError, match="MemoryError: CUDA out of memory"):
        list(stubborn([["too long"]]))


def test_the_model_has_to_be_known(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"which model and decoding .* and Shouting does not say"):
        make_stored_model(Shouting(), path=str(tmp_path / "responses.sqlite"))
