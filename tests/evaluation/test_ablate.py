"""The ablations on tiny models: what each variant is trained on and asked, and the tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from scripts import ablate
from scripts.ablate import FACTORS, GOLD, PASSAGES, SENTENCES, Data, Variant, combine, summarize

ROOT = Path(__file__).parents[2]
NAMES = ["Ada", "Bob", "Eve", "Max", "Ida"]


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf8")
    return path


def entity(text: str, string: str, label: str, **more: str) -> dict[str, object]:
    start = text.index(string)
    return {"start": start, "end": start + len(string), "label": label, **more}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("data")
    sentences = []
    for i in range(60):
        name = NAMES[i % 5]
        text = f"{name} saw Rome {i} times."
        entities = [
            entity(text, name, "person", description="human individual"),
            entity(text, "Rome", "city" if i % 2 else "capital", description="place to live"),
        ]
        sentences.append({"id": f"s{i}", "text": text, "entities": entities})
    gold = []
    for i in range(6):
        text = f"{NAMES[i % 5]} ran Emotet {i}."
        gold.append({"id": f"g{i}", "text": text, "entities": [entity(text, "Emotet", "MALWARE")]})
    bare = [
        {**row, "entities": [{k: v for k, v in e.items() if k != "description"} for e in entities]}
        for row in sentences
        if isinstance(entities := row["entities"], list)
    ]
    (folder / "benchmarks").mkdir()
    tagged = "Ada\tB-researcher\nused\tO\nLisp\tB-programlang\n\n"
    (folder / "benchmarks/crossner_ai_test.txt").write_text(tagged * 3, "utf8")
    return Data(
        write(folder / "sentences.jsonl", sentences),
        write(folder / "passages.jsonl", bare),
        write(folder / "gold_train.jsonl", gold[:4]),
        write(folder / "gold_test.jsonl", gold[4:]),
        ROOT / "configs" / "definitions.json",
        folder / "benchmarks",
    )


def types(conversations) -> set[str]:
    return {question.type for item in conversations for question in item.questions}


def test_each_variant_differs_from_the_paper_in_one_choice() -> None:
    for name, (_, rows) in FACTORS.items():
        variants = list(rows.values())
        differing = {
            field
            for field in vars(variants[0])
            if len({getattr(variant, field) for variant in variants}) > 1
        }
        assert len(differing) == 1, name


def test_factors_are_crossed() -> None:
    title, rows = combine(["negatives", "template", "loss"])
    assert title == " x ".join(FACTORS[name][0] for name in ("negatives", "template", "loss"))
    assert len(rows) == 3 * 2 * 2
    assert len({variant.name for variant in rows.values()}) == len(rows)
    assert rows["none, with the name, answers and acknowledgement"] == Variant(
        negatives="none", gold=True, named=True, acknowledgement=True
    )
    assert rows["frequency, without the name, answers"] == Variant(gold=True)


def test_definitions_are_asked_in_place_of_types(data: Data) -> None:
    assert types(data.train(Variant(), 100, 0)) == {"person", "city", "capital"}
    by_definition = Variant(ask="definition")
    assert types(data.train(by_definition, 100, 0)) == {"human individual", "place to live"}
    tests = data.tests(by_definition, 10)
    assert set(tests) == {SENTENCES, GOLD}
    assert types(tests[GOLD]) == {"harmful computer program"}


def test_data_sets_are_named_in_training_and_when_asked(data: Data) -> None:
    named = Variant(gold=True, named=True)
    train = data.train(named, 10, 0)
    assert {item.dataset for item in train} == {"corpus", "gold"}
    assert {item.dataset for item in data.tests(named, 5)[GOLD]} == {"gold"}
    assert {item.dataset for item in data.train(Variant(gold=True), 10, 0)} == {None}
    assert "malware" in types(train)
    assert "malware" not in types(data.train(Variant(), 10, 0))


def test_held_out_texts_are_never_trained_on(data: Data) -> None:
    trained = {item.text for item in data.train(Variant(), 100, 0)}
    tests = data.tests(Variant(), 100)
    assert tests[SENTENCES]
    assert tests[PASSAGES]
    assert trained.isdisjoint(item.text for name in (SENTENCES, PASSAGES) for item in tests[name])
    assert types(tests["CrossNER AI"]) == {"researcher", "program language"}


def test_seeds_draw_their_own_texts_and_negatives(data: Data) -> None:
    assert data.train(Variant(), 20, 0) == data.train(Variant(), 20, 0)
    assert data.train(Variant(), 20, 0) != data.train(Variant(), 20, 1)
    none = data.train(Variant(negatives="none"), 100, 0)
    assert all(question.answers for item in none for question in item.questions)


def test_a_share_of_the_texts_is_a_part_of_them(data: Data) -> None:
    whole = {item.text for item in data.train(Variant(), 20, 0)}
    half = {item.text for item in data.train(Variant(share=0.5), 20, 0)}
    assert (len(half), len(whole)) == (10, 20)
    assert half < whole


@pytest.mark.slow
def test_tables_have_every_row_and_runs_are_kept(
    data: Data, tmp_path: Path, tiny_bert_decoder: Path, tiny_llama: Path, capsys
) -> None:
    shutil.copytree(tiny_bert_decoder, tmp_path / "student")
    arguments = [
        *(ROOT / "configs/test/finetune_mini.cfg", tmp_path / "student", tmp_path / "out"),
        *("--sentences", data.sentences, "--passages", data.passages),
        *("--gold-train", data.gold_train, "--gold-test", data.gold_test),
        *("--benchmarks", tmp_path / "typo"),
        *("--seeds", 1, "--texts", 20, "--test-texts", 2, "--max-new-tokens", 8),
        *("--training.max_steps", 1),
    ]

    def run() -> str:
        ablate.app([str(argument) for argument in arguments], standalone_mode=False)
        return (tmp_path / "out/ablations.md").read_text("utf8")

    table = run()
    told = " ".join(capsys.readouterr().out.split())
    assert f"{tmp_path / 'typo'} has no test set of CrossNER and MIT" in told
    assert "Expected any of mit_movie_test.txt, " in told
    assert "scale-down" in table
    for title, rows in FACTORS.values():
        assert f"### {title}" in table
        assert all(f"\n| {row} | " in table for row in rows)
    assert table.count(f"| Choice | {SENTENCES} | {PASSAGES} | {GOLD} | Mean |") == 4
    # Passages have no definitions.
    assert f"| Choice | {SENTENCES} | {GOLD} | Mean |" in table
    report = json.loads((tmp_path / "out/ablations.json").read_text("utf8"))
    assert report["settings"]["training"]["max_steps"] == 1
    assert len(report["provenance"]["data"]) == 5
    assert len(report["factors"]["negatives"]["none"]["mean"]["values"]) == 1
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/runs").iterdir()}
    assert len(kept) == 10
    assert run() == table
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    # A folder of the same name may hold another student.
    shutil.rmtree(tmp_path / "student")
    shutil.copytree(tiny_llama, tmp_path / "student")
    arguments += ["--factor", "loss"]
    run()
    arguments += ["--texts", 10]
    run()
    # Nor do other settings write over the runs with those before.
    assert len(list((tmp_path / "out/runs").iterdir())) == len(kept) + 2 + 2
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    arguments += ["--factor", "questions", "--cross"]
    table = run()
    assert f"### {FACTORS['loss'][0]} x {FACTORS['questions'][0]}" in table
    assert "\n| answers and acknowledgement, all-in-one | " in table
    assert table.count("\n| answers") == 6


def test_rows_have_mean_and_deviation_over_the_sets_that_all_have() -> None:
    scores = {
        Variant().name: [{SENTENCES: 0.2, PASSAGES: 0.9, GOLD: 0.4}, {SENTENCES: 0.4, GOLD: 0.4}],
        Variant(ask="definition").name: [{SENTENCES: 0.1, GOLD: 0.3}],
        Variant(ask="all-in-one").name: [{SENTENCES: 0.0, PASSAGES: 0.0, GOLD: 0.0}],
    }
    rows = summarize(FACTORS["questions"][1], scores)
    assert list(rows["type"]) == list(rows["definition"]) == [SENTENCES, GOLD, "mean"]
    assert rows["type"][SENTENCES]["mean"] == pytest.approx(0.3)
    assert rows["type"][SENTENCES]["sd"] == pytest.approx(0.02**0.5)
    assert rows["type"]["mean"]["values"] == pytest.approx([0.3, 0.4])
    assert rows["definition"]["mean"]["sd"] == 0.0


def test_an_unknown_factor_is_named(data: Data, tmp_path: Path, capsys) -> None:
    arguments = ["configs/test/finetune_mini.cfg", "student", tmp_path, "--factor", "depth"]
    arguments += ["--sentences", data.sentences, "--passages", data.passages]
    arguments += ["--gold-train", data.gold_train, "--gold-test", data.gold_test]
    with pytest.raises(SystemExit):
        ablate.app([str(argument) for argument in arguments], standalone_mode=False)
    assert "no factor 'depth'. Use one of negatives" in capsys.readouterr().out
