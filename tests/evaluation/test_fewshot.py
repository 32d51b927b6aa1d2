"""The frozen few-shot protocol on vectors whose classes are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts import evaluate_frozen
from spacy_universalner.evaluation.fewshot import (
    TokenSet,
    fit_head,
    run_frozen,
    score_head,
    summarize_runs,
)
from spacy_universalner.evaluation.metrics import Counts, count_tokens, macro_f1, total

TYPES = ["city", "person"]


def make_set(sentences: int, *, noise: float, seed: int) -> TokenSet:
    """Four tokens a sentence around three centres: none, city and person."""
    random = np.random.default_rng(seed)
    centres = np.eye(3, 8) * 2
    vectors, tags = [], []
    for i in range(sentences):
        classes = [0, 1 + i % 2, 0, 2 - i % 2]
        vectors.append(centres[classes] + random.normal(0, noise, (4, 8)))
        tags.append([["", *TYPES][each] for each in classes])
    return TokenSet(vectors, tags)


def test_separable_classes_are_separated():
    train, test = make_set(20, noise=0.1, seed=1), make_set(50, noise=0.1, seed=2)
    (run,) = run_frozen(train, test, [(8, 0, range(10))])
    assert run["macro_f1"] == run["micro_f1"] == 1
    assert run["per_type"] == {"city": 1, "person": 1}


def test_more_examples_are_better_and_runs_repeat():
    train, test = make_set(400, noise=1.0, seed=1), make_set(400, noise=1.0, seed=2)
    samples = [(1, 0, [0]), (8, 0, range(8)), (400, 0, range(400))]
    runs = run_frozen(train, test, samples)
    one, eight, all_ = (run["macro_f1"] for run in runs)
    assert one < eight < all_ < 1
    assert run_frozen(train, test, samples) == runs


def test_the_fit_is_the_minimum():
    train = make_set(30, noise=0.5, seed=3)
    vectors, classes = train.rows(TYPES)
    head = fit_head(vectors, classes, 3, penalty=0.01)
    loss = torch.nn.functional.cross_entropy(head(vectors), classes)
    (loss + 0.005 * head.weight.square().sum()).backward()
    assert head.weight.grad is not None
    assert head.weight.grad.abs().max() < 1e-4
    larger = fit_head(vectors, classes, 3, penalty=1.0)
    assert larger.weight.norm() < head.weight.norm()


def test_scores_are_those_of_the_token_metrics():
    test = make_set(50, noise=1.5, seed=4)
    vectors, classes = test.rows(TYPES)
    head = fit_head(*make_set(10, noise=1.5, seed=5).rows(TYPES), 3)
    names = ["", *TYPES]
    gold = [tag for tags in test.tags for tag in tags]
    found = [names[place] for place in head(vectors).argmax(dim=1).tolist()]
    expected = count_tokens(gold, found)
    assert score_head(head, vectors, classes, TYPES) == expected
    assert 0 < macro_f1(expected) < 1
    assert total(expected.values()).gold == 100


def test_a_type_that_is_never_found_scores_zero():
    head = torch.nn.Linear(2, 3)
    torch.nn.init.zeros_(head.weight)
    head.bias.data = torch.tensor([1.0, 0, 0])
    counts = score_head(head, torch.zeros(4, 2), torch.tensor([0, 1, 2, 2]), TYPES)
    assert counts == {"city": Counts(0, 0, 1), "person": Counts(0, 0, 2)}


def test_the_table_averages_over_data_sets():
    def run(k: int, seed: int, f1: float) -> dict[str, float]:
        return {"k": k, "seed": seed, "macro_f1": f1}

    runs = {"a": [run(1, 0, 0.2), run(1, 1, 0.4)], "b": [run(1, 0, 0.6), run(1, 1, 0.8)]}
    table = summarize_runs(runs)
    assert table[1]["mean"] == pytest.approx(0.5)
    assert table[1]["sd"] == pytest.approx(0.1414214)  # of 0.4 and 0.6
    assert table[1]["per_data_set"] == pytest.approx({"a": 0.3, "b": 0.7})


def test_encoders_are_compared_on_the_same_training_sets(
    tmp_path: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]
):
    for split, count in (("train", 30), ("test", 8)):
        lines = []
        for i in range(count):
            lines += ["B-ACTOR\tada", "I-ACTOR\tlovelace", "O\tsaw", f"B-TITLE\tfilm{i % 3}", ""]
        (tmp_path / f"mit_movie_{split}.txt").write_text("\n".join(lines), "utf8")
    evaluate_frozen.main(
        tmp_path,
        tmp_path / "out",
        encoder=[f"one={tiny_bert}", f"two={tiny_bert}"],
        benchmark=["mit_movie"],
        k=["1,2"],
        seeds=2,
    )
    report = json.loads((tmp_path / "out/few_shot.json").read_text("utf8"))
    one, two = report["systems"]["one"], report["systems"]["two"]
    assert one["runs"] == two["runs"]
    assert [len(sample["indices"]) for sample in report["samples"]["mit_movie"]] == [1, 1, 2, 2]
    assert [(run["k"], run["seed"]) for run in one["runs"]["mit_movie"]] == [
        (1, 0),
        (1, 1),
        (2, 0),
        (2, 1),
    ]
    assert one["table"]["1"]["mean"] > 0.5  # words are told apart even at random
    assert "| 1 | " in (tmp_path / "out/few_shot.md").read_text("utf8")
    assert (report["k"], report["seeds"], report["limit"]) == ([1, 2], 2, None)
    with pytest.raises(SystemExit):
        evaluate_frozen.main(tmp_path, tmp_path / "out", encoder=["one=x"], benchmark=["jnlpba"])
    capsys.readouterr()
    arguments = {"encoder": [f"one={tiny_bert}"], "benchmark": ["mit_movie"], "k": ["99"]}
    with pytest.raises(SystemExit):
        evaluate_frozen.main(tmp_path, tmp_path / "out", **arguments)
    told = " ".join(capsys.readouterr().out.split())
    assert "Cannot sample from" in told and "mit_movie_train.txt" in told
    assert "99 mentions of each type are wanted" in told
