"""Whole annotation runs, through spacy-llm and the script."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
from collections import Counter
from pathlib import Path
from random import Random
from threading import Barrier

import pytest
import spacy
from spacy.tokens import DocBin
from spacy_llm.registry import registry
from transformers import AutoTokenizer
from typer.testing import CliRunner

from scripts.annotate import app, show_progress
from spacy_universalner.data.annotation.costs import Price
from spacy_universalner.data.annotation.run import annotate, load_annotator, plan, stored_model
from spacy_universalner.data.annotation.summary import frequency_bands
from spacy_universalner.data.annotation.templates import render_prompt
from spacy_universalner.data.store import ResponseStore
from spacy_universalner.ty import Mention, Passage
from tests.data.annotators import (
    CapitalsModel,
    read_log,
    run,
    run_and_die,
    write_llm_config,
)

ROOT = Path(__file__).parents[2]
NUNER = ROOT / "configs" / "annotate_nuner.cfg"
SUFFIXES = (".jsonl", "_rejects.jsonl", ".spacy", ".json")


def write_texts(folder: Path, *texts: str) -> Path:
    path = folder / "texts.txt"
    path.write_text("\n".join(texts), encoding="utf8")
    return path


def outputs(folder: Path) -> dict[str, bytes]:
    return {suffix: (folder / f"out{suffix}").read_bytes() for suffix in SUFFIXES}


def test_recorded_answers_end_to_end(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "text": "Ada met Ada.", "response": "Ada <> person <> a human\nBob <> person"},
        {"id": "b", "text": "Love is all.", "response": "Love <> concept"},
        {
            "id": "c",
            "text": "It's Mahler's Fifth.",
            "response": "Mahler <> composer\nFifth <> work",
        },
        {"id": "d", "text": "ada MET ada", "response": ""},
        {"id": "e", "text": "Hm.", "response": "I cannot say."},
    ]
    texts = tmp_path / "texts.jsonl"
    texts.write_text("\n".join(map(json.dumps, rows)), encoding="utf8")
    recorded = ROOT / "configs" / "llm" / "recorded.cfg"
    run(NUNER, texts, tmp_path / "out", "--llm", recorded, "--metrics", tmp_path / "out.json")

    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    ada = {"label": "person", "description": "a human"}
    assert written == [
        {
            "id": "a",
            "text": "Ada met Ada.",
            "entities": [{"start": 0, "end": 3, **ada}, {"start": 8, "end": 11, **ada}],
        },
        {
            "id": "c",
            "text": "It's Mahler's Fifth.",
            "entities": [
                {"start": 5, "end": 11, "label": "composer"},
                {"start": 14, "end": 19, "label": "work"},
            ],
        },
    ]
    rejects = [
        json.loads(line) for line in (tmp_path / "out_rejects.jsonl").read_text().splitlines()
    ]
    assert rejects == [
        {"id": "a", "item": "Bob", "reason": "not in text"},
        {"id": "b", "item": "Love", "reason": 'text with the concept "concept"'},
        {"id": "e", "item": "I cannot say.", "reason": "unparseable answer"},
        {"id": "d", "item": "a", "reason": "duplicate"},
    ]
    docs = list(DocBin().from_disk(tmp_path / "out.spacy").get_docs(spacy.blank("en").vocab))
    assert [doc.user_data["id"] for doc in docs] == ["a", "c"]
    assert [(s.text, s.label_) for s in docs[1].spans["annotation"]] == [
        ("Mahler", "composer"),
        ("Fifth", "work"),
    ]
    metrics = json.loads((tmp_path / "out.json").read_text())
    assert {name: metrics[name] for name in ("texts", "kept", "words", "entities", "types")} == {
        "texts": 5,
        "kept": 2,
        "words": 6,
        "entities": 4,
        "types": 3,
    }
    assert metrics["type_counts"] == {"person": 2, "composer": 1, "work": 1}
    assert metrics["types_seen_once"] == 2
    assert metrics["rejects"] == {"not in text": 1}
    assert metrics["dropped_texts"] == {
        'text with the concept "concept"': 1,
        "unparseable answer": 1,
        "duplicate": 1,
    }
    assert metrics["examples"]["not in text"] == [{"id": "a", "item": "Bob"}]


@pytest.mark.parametrize("name", ["nuner", "uniner"])
def test_the_shipped_configs_read_the_shipped_assets(tmp_path: Path, name: str) -> None:
    assets = ROOT / "assets" / f"{name}_responses.jsonl"
    config = ROOT / "configs" / f"annotate_{name}.cfg"
    run(
        *(config, assets, tmp_path / "out", "--limit", 50, "--metrics", tmp_path / "out.json"),
        *("--llm", ROOT / "configs" / "llm" / "recorded.cfg"),
    )
    metrics = json.loads((tmp_path / "out.json").read_text())
    assert (metrics["texts"], metrics["rejects"]) == (50, {})
    assert metrics["kept"] + sum(metrics["dropped_texts"].values()) == 50
    assert metrics["entities"] > 150


def test_a_missing_key_is_one_line_before_any_work(tmp_path: Path) -> None:
    llm = write_llm_config(tmp_path / "llm.cfg", tmp_path / "log", env='["SOME_KEY", "HOME"]')
    texts = write_texts(tmp_path, "Ada ran.")
    result = CliRunner().invoke(
        app, [str(NUNER), str(texts), str(tmp_path / "out"), "--llm", str(llm)]
    )
    assert result.exit_code == 1
    assert "llm.cfg needs SOME_KEY in the environment." in " ".join(result.output.split())
    assert {path.name for path in tmp_path.iterdir()} == {"llm.cfg", "texts.txt"}


def test_the_shipped_models_name_their_keys() -> None:
    for path in sorted((ROOT / "configs" / "llm").glob("*.cfg")):
        config = spacy.util.load_config(path)
        assert registry.llm_models.get(config["model"]["@llm_models"]), path
        assert isinstance(config["requires"]["env"], list), path


def test_a_dry_run_counts_and_asks_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    llm = write_llm_config(tmp_path / "llm.cfg", log)
    texts = write_texts(tmp_path, "Ada ran.", "Bob sat.", "Eve hid.")
    nlp = load_annotator(NUNER, llm, texts=texts, store=tmp_path / "responses.sqlite")
    passages = [Passage("1", "Ada ran."), Passage("2", "Bob sat.")]
    (prompt,) = nlp.get_pipe("llm").task.generate_prompts([nlp.make_doc("Bob sat.")])
    list(annotate(nlp, passages[:1]))
    ahead = plan(nlp, passages)
    assert (ahead.texts, ahead.requests) == (2, 1)
    assert ahead.prompt_tokens == -(-len(prompt) // 4)

    prices = tmp_path / "prices.csv"
    prices.write_text("model,prompt,response\ntiny,1000,10000\n", encoding="utf8")
    arguments = [NUNER, texts, tmp_path / "out", "--llm", llm, "--prices", prices, "--dry-run"]
    arguments += ["--response-tokens", 100, "--limit", 2, "--components.llm.model.identity", "tiny"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert "2 texts: 1 answers stored, 1 to ask for" in result.output
    assert read_log(log) == ["Ada ran."]
    assert not (tmp_path / "out.jsonl").exists()


def test_a_dry_run_names_the_price(tmp_path: Path) -> None:
    texts = write_texts(tmp_path, "Ada ran.", "Bob sat.", "Eve hid.")
    llm = tmp_path / "llm.cfg"
    llm.write_text('[model]\n@llm_models = "test.Named.v1"\nname = "tiny"\n[requires]\nenv = []\n')
    nlp = load_annotator(NUNER, llm, texts=texts, store=tmp_path / "responses.sqlite")
    docs = [nlp.make_doc(text) for text in ("Ada ran.", "Bob sat.", "Eve hid.")]
    tokens = sum(-(-len(prompt) // 4) for prompt in nlp.get_pipe("llm").task.generate_prompts(docs))
    prices = tmp_path / "prices.csv"
    prices.write_text("model,prompt,response\nother,1,1\ntiny,1000,10000\n", encoding="utf8")
    arguments = [NUNER, texts, tmp_path / "out", "--llm", llm, "--dry-run", "--prices", prices]
    arguments += ["--response-tokens", "100"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert f"${tokens / 1000 + 3:,.2f}" in result.output
    prices.write_text("\ufeffmodel,prompt,response\ntiny,1000,10000\n", encoding="utf8")
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert f"${tokens / 1000 + 3:,.2f}" in result.output
    prices.write_text("model,prompt,response\ntiny,cheap,\n", encoding="utf8")
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 1
    assert "prices.csv:2: expected model,prompt,response" in " ".join(result.output.split())
    prices.write_text("model,prompt,response\n", encoding="utf8")
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0 and "$" not in result.output
    assert "No price: add a line for 'tiny'" in " ".join(result.output.split())


def test_a_sample_is_drawn_from_all_texts(tmp_path: Path) -> None:
    texts = write_texts(tmp_path, *(f"Ada ran {i} miles." for i in range(40)))
    log = tmp_path / "log"
    llm = write_llm_config(tmp_path / "llm.cfg", log)
    run(NUNER, texts, tmp_path / "out", "--llm", llm, "--sample", 5)
    asked = read_log(log)
    assert len(set(asked)) == len(asked) == 5
    assert max(int(text.split()[2]) for text in asked) >= 5, "not the first ones"


def test_progress_shows_rate_failures_and_money(tmp_path: Path, capsys) -> None:
    texts = write_texts(tmp_path, "Ada ran.", "Bob sat.", "Eve hid.")
    llm = write_llm_config(tmp_path / "llm.cfg", tmp_path / "log", failing="Bob")
    nlp = load_annotator(NUNER, llm, texts=texts, store=tmp_path / "responses.sqlite")
    found = annotate(
        nlp, [Passage(str(i), text) for i, text in enumerate(["Ada ran.", "Bob sat."])]
    )
    shown = show_progress(found, 2, stored_model(nlp), Price(prompt=1000.0, response=0.0))
    assert len(list(shown)) == 2
    bar = capsys.readouterr().err.split("\r")[-1]
    tokens = stored_model(nlp).prompt_tokens
    assert "2/2" in bar and "text/s" in bar
    assert f"1 failed, ${tokens / 1000:.2f}" in bar


def test_failures_are_kept_and_only_they_are_asked_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    texts = write_texts(tmp_path, "Ada ran.", "Bob sat.", "Eve hid.")
    arguments = (NUNER, texts, tmp_path / "out", "--metrics", tmp_path / "out.json", "--llm")
    run(*arguments, write_llm_config(tmp_path / "llm.cfg", log, failing="Bob"))
    assert sorted(read_log(log)) == ["Ada ran.", "Bob sat.", "Eve hid."]
    first = (tmp_path / "out_rejects.jsonl").read_text()
    assert json.loads(first) == {
        "id": "texts-2",
        "item": "the server is on fire",
        "reason": "no answer",
    }
    assert len(ResponseStore(tmp_path / "responses.sqlite").failures()) == 1
    run(*arguments, write_llm_config(tmp_path / "llm.cfg", log))
    assert read_log(log)[3:] == ["Bob sat."]
    assert (tmp_path / "out_rejects.jsonl").read_text() == ""
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3
    assert ResponseStore(tmp_path / "responses.sqlite").failures() == {}


def test_more_failures_than_allowed_fail_the_run(tmp_path: Path) -> None:
    llm = write_llm_config(tmp_path / "llm.cfg", tmp_path / "log", failing="Bob")
    texts = write_texts(tmp_path, "Ada ran.", "Bob sat.")
    arguments = [str(NUNER), str(texts), str(tmp_path / "out"), "--llm", str(llm), "--max-failed"]
    assert CliRunner().invoke(app, [*arguments, "1"]).exit_code == 0
    strict = CliRunner().invoke(app, [*arguments, "0"])
    assert strict.exit_code == 1 and "--max-failed 0" in strict.output
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1


def test_another_model_named_on_the_command_line_is_asked_anew(tmp_path: Path) -> None:
    llm = tmp_path / "llm.cfg"
    llm.write_text('[model]\n@llm_models = "test.Named.v1"\nname = "small"\n', "utf8")
    texts = write_texts(tmp_path, "Ada ran.")
    arguments = (NUNER, texts, tmp_path / "out", "--llm", llm)
    labels = []
    for name in ("small", "large", "small"):
        run(*arguments, "--components.llm.model.model.name", name)
        row = json.loads((tmp_path / "out.jsonl").read_text("utf8"))
        labels.append(row["entities"][0]["label"])
    assert labels == ["small", "large", "small"]
    run(*arguments)
    run(*arguments, "--components.llm.model.identity", "mine")
    assert len(ResponseStore(tmp_path / "responses.sqlite")) == 3


def test_texts_are_not_written_over(tmp_path: Path) -> None:
    texts = tmp_path / "out.jsonl"
    texts.write_text('{"text": "Ada ran.", "year": 1}\n', "utf8")
    llm = write_llm_config(tmp_path / "llm.cfg", tmp_path / "log")
    arguments = [str(NUNER), str(texts), str(tmp_path / "out"), "--llm", str(llm)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    assert "would be written over the texts" in " ".join(done.output.split())
    assert texts.read_text("utf8") == '{"text": "Ada ran.", "year": 1}\n'


def test_docs_of_an_earlier_run_do_not_stay(tmp_path: Path) -> None:
    llm = write_llm_config(tmp_path / "llm.cfg", tmp_path / "log")
    run(NUNER, write_texts(tmp_path, "Ada ran."), tmp_path / "out", "--llm", llm)
    assert (tmp_path / "out.spacy").exists()
    run(NUNER, write_texts(tmp_path, "Bob sat."), tmp_path / "out", "--llm", llm, "--no-docs")
    assert {path.name for path in tmp_path.glob("out*")} == {"out.jsonl", "out_rejects.jsonl"}


def test_a_run_without_any_answer_fails(tmp_path: Path) -> None:
    llm = write_llm_config(tmp_path / "llm.cfg", tmp_path / "log", failing=" ")
    texts = write_texts(tmp_path, *(f"Ada ran {i} miles." for i in range(30)))
    arguments = [str(NUNER), str(texts), str(tmp_path / "out"), "--llm", str(llm)]
    many = CliRunner().invoke(app, arguments)
    assert many.exit_code == 1
    assert "10 requests in a row failed" in many.output
    few = CliRunner().invoke(app, [*arguments, "--limit", "5"])
    assert few.exit_code == 1
    assert "Nothing was annotated" in few.output


def test_overlapping_batches_give_the_same(tmp_path: Path) -> None:
    texts = write_texts(tmp_path, *(f"Ada ran {i} times, Bob did not." for i in range(40)))
    results = []
    for batch_size in (1, 7, 100):
        folder = tmp_path / str(batch_size)
        folder.mkdir()
        llm = write_llm_config(folder / "llm.cfg", folder / "log")
        run(
            *(NUNER, texts, folder / "out", "--llm", llm, "--batch-size", batch_size),
            *("--metrics", folder / "out.json"),
        )
        results.append(outputs(folder))
    assert results[0] == results[1] == results[2]


def test_small_batches_do_not_hold_requests_back(tmp_path: Path) -> None:
    llm = write_llm_config(tmp_path / "llm.cfg", tmp_path / "log")
    nlp = load_annotator(
        NUNER, llm, texts=write_texts(tmp_path, ""), store=tmp_path / "responses.sqlite"
    )
    barrier = Barrier(CapitalsModel.concurrency, timeout=30)

    def waits(prompts):
        barrier.wait()  # passes only when as many requests as may be are under way at once
        return [["Ada <> name"] for _ in prompts]

    stored_model(nlp).model = waits
    passages = [Passage(f"{i}", f"Ada ran {i} miles.") for i in range(8)]
    found = [passage.mentions for passage, _, _ in annotate(nlp, passages, batch_size=1)]
    assert found == [(Mention(0, 3, "name"),)] * 8


def test_it_is_an_ordinary_pipeline(tmp_path: Path) -> None:
    llm = write_llm_config(tmp_path / "llm.cfg", tmp_path / "log")
    texts = write_texts(tmp_path, "")
    nlp = load_annotator(NUNER, llm, texts=texts, store=tmp_path / "responses.sqlite")
    doc = nlp("Ada met Bob.")
    assert [span.text for span in doc.spans["annotation"]] == ["Ada", "Bob"]
    assert stored_model(nlp).asked == 1
    passages = [Passage("1", "Ada met Bob."), Passage("2", "Eve.")]
    found = [passage.mentions for passage, _, _ in annotate(nlp, passages)]
    assert found == [(Mention(0, 3, "name"), Mention(8, 11, "name")), (Mention(0, 3, "name"),)]
    assert stored_model(nlp).reused == 1


@pytest.mark.slow
def test_kill_9_at_random_moments_loses_nothing(tmp_path: Path) -> None:
    rng = Random(0)
    names = ["Ada", "Bob", "Eve", "Rome", "Kyoto", "Lima"]
    sentences = [
        f"{rng.choice(names)} sent {rng.choice(names)} exactly {i} letters." for i in range(500)
    ]
    texts = write_texts(tmp_path, *sentences)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    arguments = {}
    for folder, seconds in ((whole, 0.0), (killed, 0.002)):
        folder.mkdir()
        llm = write_llm_config(folder / "llm.cfg", folder / "log", seconds=seconds)
        arguments[folder] = (
            *(NUNER, texts, folder / "out", "--llm", llm, "--metrics", folder / "out.json"),
            *("--batch-size", 20),
        )
    run(*arguments[whole])

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.data.annotators"])
    log, store = killed / "log", ResponseStore(killed / "responses.sqlite")
    keys = {text: store.key("capitals", render_prompt("nuner", text)) for text in sentences}
    for _ in range(20):
        stored = {text for text in sentences if store.get(keys[text]) is not None}
        seen = len(read_log(log))
        moment = (rng.randint(1, 5), rng.uniform(0, 0.005))
        process = context.Process(target=run_and_die, args=(*moment, *arguments[killed]))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not (killed / "out.jsonl").exists()
        assert stored.isdisjoint(read_log(log)[seen:])
    run(*arguments[killed])

    assert outputs(killed) == outputs(whole)
    counts = Counter(read_log(log))
    assert set(counts) == set(sentences)
    # Only what was under way at a kill, four requests at most, was asked again.
    assert counts.total() - len(counts) <= 20 * CapitalsModel.concurrency


def test_frequency_bands() -> None:
    counts = {f"t{i}": 200 - i for i in range(200)}
    assert frequency_bands(counts) == [
        {"band": "top 1%", "types": 2, "mentions": 399, "share": 399 / 20100},
        {"band": "1-10%", "types": 18, "mentions": 3411, "share": 3411 / 20100},
        {"band": "the rest", "types": 180, "mentions": 16290, "share": 16290 / 20100},
    ]
    assert [band["share"] for band in frequency_bands({})] == [0.0, 0.0, 0.0]


def test_a_model_of_hugging_face_annotates_in_this_process(tmp_path: Path, tiny_gpt2: Path) -> None:
    """Its words mean nothing, but they are stored by its name and asked for once."""
    model = shutil.copytree(tiny_gpt2, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    tokenizer.save_pretrained(model)
    texts = write_texts(tmp_path, "Ada ran.", "Bob sat.", "Eve hid.")
    (tmp_path / "short.jinja").write_text("Entities? {{ text }}")
    arguments = (
        *(NUNER, texts, tmp_path / "out"),
        *("--llm", ROOT / "configs" / "llm" / "huggingface.cfg"),
        *("--components.llm.model.model.name", model),
        *("--components.llm.model.model.max_new_tokens", 8),
        *("--components.llm.task.template", tmp_path / "short.jinja"),
    )
    for ahead in ("0 answers stored, 3 to ask for", "3 answers stored, 0 to ask for"):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert ahead in result.output
    store = ResponseStore(tmp_path / "responses.sqlite")
    assert (len(store), store.failures()) == (3, {})
