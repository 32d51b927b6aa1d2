"""The speed benchmarks compare like with like and name the machine of each figure."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.nuner import pretraining
from benchmarks.universal_ner.__main__ import read_results, save
from spacy_universalner.data.readers import write_passages
from tests.nuner.test_pretrain import make_passages, make_settings

ROOT = Path(__file__).parents[1]


def test_figures_stand_under_the_machine_that_they_were_measured_on(tmp_path: Path):
    shutil.copy(ROOT / "benchmarks/universal_ner/results/cpu.json", tmp_path)
    results = read_results(tmp_path / "cpu.json")
    before = {name: each for name, each in results.items() if name != "student"}
    other = {"device": "cpu", "threads": 7, "clock": "wall", "torch": "9.9"}
    results["student"] = {**results["student"], "machine": other}
    save(results, tmp_path, "cpu")
    one, two = (tmp_path / "cpu.md").read_text("utf8").split("CPU threads: ")[1:]
    assert one.startswith("2,") and "## llama-58m" in one and "## Many documents" in one
    assert two.startswith("7,") and "## student" in two and "## llama-58m" not in two
    assert "## student" not in one
    written = read_results(tmp_path / "cpu.json")
    assert written == {**before, "student": results["student"]}
    assert (tmp_path / "cpu.svg").stat().st_size


def test_files_of_one_machine_are_written_as_before(tmp_path: Path):
    folder = ROOT / "benchmarks/universal_ner/results"
    save(read_results(folder / "cpu.json"), tmp_path, "cpu")
    assert (tmp_path / "cpu.md").read_text("utf8") == (folder / "cpu.md").read_text("utf8")


def test_no_time_limit_shortens_one_side_of_the_pretraining_benchmark(
    tmp_path: Path, tiny_bert: Path
):
    settings = asdict(replace(make_settings(tiny_bert), minutes=1e-6))
    values = "\n".join(f"{name} = {json.dumps(value)}" for name, value in settings.items())
    (tmp_path / "pretrain.cfg").write_text(f"[pretraining]\n{values}\n", "utf8")
    write_passages(tmp_path / "corpus.jsonl", make_passages())
    output = tmp_path / "pretraining.json"
    pretraining.main(
        tmp_path / "corpus.jsonl",
        tmp_path / "pretrain.cfg",
        sentences=40,
        epochs=2,
        batch_size=8,
        threads=1,
        output=output,
    )
    results = json.loads(output.read_text("utf8"))
    assert {len(run["epochs"]) for run in results["runs"]} == {2}
    assert results["settings"]["minutes"] == 0
