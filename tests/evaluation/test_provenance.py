"""What is written down about where a result is from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import spacy
import typer
from typer.testing import CliRunner

from scripts import (
    build_conversations,
    evaluate,
    evaluate_frozen,
    evaluate_paraphrases,
    evaluate_zero_shot,
)
from spacy_universalner.data.readers import passage_to_dict, write_passages
from spacy_universalner.evaluation.provenance import checksum, folder_checksums
from spacy_universalner.ty import Mention, Passage
from tests.universal_ner import gazetteer  # noqa: F401  (registers its models)

PASSAGE = Passage("1", "Ada saw Rome.", (Mention(0, 3, "person"),))
TAGGED = "B-ACTOR\tada\nO\tsaw\nB-TITLE\tfilm\n\n" * 3


def test_a_folder_is_told_by_the_names_and_contents_of_its_files(tmp_path: Path):
    folder = tmp_path / "data"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "a").write_text("a")
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert checksum(copy) == checksum(folder)
    (copy / "inner" / "a").write_text("b")
    assert checksum(copy) != checksum(folder)
    (copy / "inner" / "a").rename(copy / "inner" / "b")
    (copy / "inner" / "b").write_text("a")
    assert checksum(copy) != checksum(folder)
    assert folder_checksums(folder) == {f"{folder}/inner/a": checksum(folder / "inner" / "a")}
    assert folder_checksums("someone/of-a-hub") == {}


def test_a_folder_of_gold_data_is_scored(tmp_path: Path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    data = tmp_path / "gold.parquet"
    data.mkdir()
    rows = [passage_to_dict(PASSAGE)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), data / "part-0.parquet")
    spacy.blank("en").to_disk(tmp_path / "pipeline")
    evaluate.main(tmp_path / "pipeline", [data], tmp_path / "scores.json")
    results = json.loads((tmp_path / "scores.json").read_text("utf8"))
    assert results["provenance"]["data"] == {str(data): checksum(data)}


def conversations(folder: Path, pipeline: Path, encoder: Path) -> tuple[Path, list[Path], Path]:
    command = [folder / "out", "--sentences", folder / "gold.jsonl"]
    command += ["--metrics", folder / "metrics.json"]
    app = typer.Typer()
    app.command()(build_conversations.main)
    done = CliRunner().invoke(app, [str(each) for each in [*command, "--dev", 0, "--seed", 3]])
    assert done.exit_code == 0, done.output
    assert json.loads((folder / "metrics.json").read_text("utf8"))["seed"] == 3
    return folder / "metrics.json", [folder / "gold.jsonl"], folder / "no weights"


def frozen(folder: Path, pipeline: Path, encoder: Path) -> tuple[Path, list[Path], Path]:
    settings = {"benchmark": ["mit_movie"], "k": ["1"], "seeds": 1}
    evaluate_frozen.main(folder, folder / "out", encoder=[f"one={encoder}"], **settings)
    output = folder / "out" / "few_shot.json"
    assert json.loads(output.read_text("utf8"))["penalty"] == evaluate_frozen.PENALTY
    return output, [folder / f"mit_movie_{split}.txt" for split in ("train", "test")], encoder


def scores(folder: Path, pipeline: Path, encoder: Path) -> tuple[Path, list[Path], Path]:
    evaluate.main(pipeline, [folder / "gold.jsonl"], folder / "scores.json")
    return folder / "scores.json", [folder / "gold.jsonl"], pipeline


def zero_shot(folder: Path, pipeline: Path, encoder: Path) -> tuple[Path, list[Path], Path]:
    evaluate_zero_shot.main(pipeline, folder, folder / "out")
    return folder / "out" / "zero_shot.json", [folder / "mit_movie_test.txt"], pipeline


def paraphrases(folder: Path, pipeline: Path, encoder: Path) -> tuple[Path, list[Path], Path]:
    inputs = [folder / "gold.jsonl", folder / "ways.json"]
    evaluate_paraphrases.main(pipeline, *inputs, folder / "out.json")
    return folder / "out.json", inputs, pipeline


@pytest.mark.parametrize("write", [conversations, frozen, scores, zero_shot, paraphrases])
def test_results_name_data_weights_and_versions(tmp_path: Path, tiny_bert: Path, write):
    nlp = spacy.blank("en")
    model = {"@llm_models": "test.Gazetteer.v1", "entities": {"person": ["Ada"]}}
    nlp.add_pipe("universal_ner", config={"labels": ["person"], "model": model})
    nlp.to_disk(tmp_path / "pipeline")
    write_passages(tmp_path / "gold.jsonl", [PASSAGE])
    (tmp_path / "ways.json").write_text(json.dumps({"person": ["person", "human"]}), "utf8")
    for split in ("train", "test"):
        (tmp_path / f"mit_movie_{split}.txt").write_text(TAGGED, "utf8")
    output, data, weights = write(tmp_path, tmp_path / "pipeline", tiny_bert)
    provenance = json.loads(output.read_text("utf8"))["provenance"]
    assert provenance["data"] == {str(path): checksum(path) for path in data}
    assert provenance["weights"] == folder_checksums(weights)
    assert bool(provenance["weights"]) == weights.is_dir()
    assert provenance["packages"]["spacy"] == spacy.__version__
