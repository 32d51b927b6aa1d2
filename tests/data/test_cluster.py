"""An annotation run on a local Ray cluster of two workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from scripts.annotate_cluster import app
from spacy_universalner.data.readers import read_passages, read_rows
from tests.data import annotators
from tests.data.annotators import CapitalsModel, read_log, run, write_llm_config

ROOT = Path(__file__).parents[2]
NUNER = ROOT / "configs" / "annotate_nuner.cfg"


def run_on_cluster(*arguments: object, seconds: float = 300) -> None:
    """`python -m scripts.annotate_cluster`; it and all that it started end with the time."""
    command = [sys.executable, "-m", "scripts.annotate_cluster", *map(str, arguments)]
    process = subprocess.Popen(
        [*command, "--code", annotators.__file__, "--num-cpus", "2", "--object-store-mb", "100"],
        cwd=ROOT,
        env={**os.environ, "RAY_ADDRESS": "127.0.0.1:1"},  # not looked at without --address
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output


def test_missing_ray_is_named_with_its_extra(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    texts = tmp_path / "texts.txt"
    texts.write_text("Ada met Bob.", "utf8")
    with pytest.raises(SystemExit):
        app([str(NUNER), str(texts), str(tmp_path / "out")], standalone_mode=False)
    assert "spacy-universalner[ray]" in capsys.readouterr().out


def test_an_earlier_runs_results_go_when_the_texts_are_read(tmp_path: Path, capsys) -> None:
    texts, results = tmp_path / "texts.jsonl", tmp_path / "out.parquet"
    llm = write_llm_config(tmp_path / "llm.cfg", tmp_path / "log")
    arguments = [str(each) for each in (NUNER, texts, tmp_path / "out", "--llm", llm)]
    results.mkdir()
    for text, message, left in (
        ('{"text": "Ada ran."}\n{"txt": "Bob."}', 'texts.jsonl:2: a passage needs "text"', True),
        ('{"text": " "}', "Nothing was annotated", False),
        ("", "Nothing was annotated", False),
    ):
        texts.write_text(text, "utf8")
        with pytest.raises(SystemExit):
            app(arguments, standalone_mode=False)
        assert message in " ".join(capsys.readouterr().out.split())
        assert results.exists() == left
        assert not (tmp_path / "out_texts.parquet").exists()
    assert read_log(tmp_path / "log") == []


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    sentences = [f"Ada sent Bob exactly {i} letters." for i in range(200)]
    texts.write_text("\n".join([*sentences, "", "ada SENT bob exactly 7 letters"]), "utf8")
    log, once = tmp_path / "log", tmp_path / "killed"
    llm = write_llm_config(tmp_path / "llm.cfg", log, kill_once=once, failing="exactly 9 ")
    arguments = (NUNER, texts, tmp_path / "out", "--llm", llm)
    arguments += ("--batch-size", 16, "--metrics", tmp_path / "out.json")
    run_on_cluster(*arguments)
    assert once.exists(), "no worker was killed"
    assert not (tmp_path / "out_texts.parquet").exists()
    counts = Counter(read_log(log))
    assert set(counts) == set(sentences)
    # Only what the worker had under way when it was killed was asked twice.
    assert counts.total() - len(counts) <= CapitalsModel.concurrency + 1

    single = tmp_path / "single"
    single.mkdir()
    llm = write_llm_config(single / "llm.cfg", single / "log", failing="exactly 9 ")
    run(NUNER, texts, single / "out", "--llm", llm, "--metrics", single / "out.json")
    for name in ("out.jsonl", "out_rejects.jsonl", "out.json"):
        assert (tmp_path / name).read_bytes() == (single / name).read_bytes()
    rows = [row for _, row in read_rows(tmp_path / "out.parquet")]
    assert sorted(row["text"] for row in rows) == sorted(sentences)
    kept = {row["id"] for row in rows if row["dropped"] is None}
    assert {p.id: p.mentions for p in read_passages(tmp_path / "out.parquet") if p.id in kept} == {
        p.id: p.mentions for p in read_passages(single / "out.jsonl")
    }
