"""`weasel run ablate-nuner` on tiny data, and the variants that it compares."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections import Counter
from pathlib import Path

from transformers import AutoModel
from weasel.util import load_project_config

from scripts.ablate_nuner import cover, cut_encoder, cut_to_words, make_variants
from spacy_universalner.data.readers import write_passages
from spacy_universalner.nuner.pretrain_settings import PretrainSettings
from spacy_universalner.ty import Mention, Passage
from tests.evaluation.project import run, write_benchmarks

ROOT = Path(__file__).parents[2]


def make_passages(count: int, repeats: int = 1) -> tuple[Passage, ...]:
    """Texts of four words and their repetitions; every other one has a rarer concept too."""
    passages = []
    for i in range(count):
        mentions = [Mention(0, 11, "scientist")]
        if i % 2:
            mentions.append(Mention(16, 21, "city"))
        passages.append(
            Passage(f"{i}", " ".join(["Marie Curie saw Paris"] * repeats), (*mentions,))
        )
    return tuple(passages)


def test_the_commonest_concepts_cover_a_share():
    counts = Counter({"a": 5, "b": 3, "c": 1, "d": 1})
    assert [cover(counts, share) for share in (0.25, 0.5, 0.75, 1.0)] == [
        ["a"],
        ["a"],
        ["a", "b"],
        ["a", "b", "c", "d"],
    ]


def test_texts_are_cut_to_words():
    passages = make_passages(5)
    assert cut_to_words(passages, 8) == passages[:2]
    assert cut_to_words(passages, 9) == passages[:3]


def test_each_variant_changes_one_thing(tiny_bert):
    settings = PretrainSettings(encoder=str(tiny_bert), batch_size=8, frozen=0.5)
    sentences, passages = make_passages(20), make_passages(4, repeats=4)
    variants = list(make_variants(sentences, passages, settings))
    by_factor = {
        factor: {each.name: each for each in variants if each.factor == factor}
        for factor in ("source", "concepts", "size", "frozen", "depth", "synonyms")
    }
    source = by_factor["source"]
    assert [len(each.passages) for each in source.values()] == [16, 4]
    assert [each.settings.batch_size for each in source.values()] == [8, 2]
    concepts = by_factor["concepts"]
    assert list(concepts) == ["1 (12.5%)", "1 (25.0%)", "1 (50.0%)", "2 (75.0%)", "2 (100.0%)"]
    assert {m.label for p in concepts["1 (50.0%)"].passages for m in p.mentions} == {"scientist"}
    assert [len(each.passages) for each in by_factor["size"].values()] == [0, 20]
    assert [int(each.settings.frozen * 2) for each in by_factor["frozen"].values()] == [0, 1]
    assert [each.depth for each in by_factor["depth"].values()] == [1, 2]
    # They go to processes of their own.
    assert pickle.loads(pickle.dumps(variants)) == variants
    whole = sentences, settings, 2
    assert [(each.factor, each.name) for each in variants if each.run == whole] == [
        ("concepts", "2 (75.0%)"),
        ("concepts", "2 (100.0%)"),
        ("size", "20"),
        ("frozen", "1"),
        ("depth", "2"),
        ("synonyms", "0"),
    ]
    synonyms = by_factor["synonyms"].values()
    assert [each.settings.mask_similar for each in synonyms] == [0, 0.8, 0.7, 0.6]


def test_an_encoder_is_cut_to_its_lowest_layers(tiny_bert, tmp_path):
    cut_encoder(str(tiny_bert), 1, tmp_path)
    model, base = AutoModel.from_pretrained(tmp_path), AutoModel.from_pretrained(tiny_bert)
    assert len(model.encoder.layer) == model.config.num_hidden_layers == 1
    kept = dict(base.encoder.layer[0].named_parameters())
    assert all(v.equal(kept[name]) for name, v in model.encoder.layer[0].named_parameters())


def test_the_command_writes_all_tables(tiny_bert, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    write_benchmarks(tmp_path / "public")
    write_passages(tmp_path / "corpus/nuner.jsonl", make_passages(20))
    write_passages(tmp_path / "corpus/uniner.jsonl", make_passages(4, repeats=4))
    overrides = {
        "vars.config_dir": "configs/test",
        "vars.encoder": str(tiny_bert),
        "vars.data_dir": "public",
        "vars.ablation_steps": 2,
        "vars.ablation_sizes": "1,2",
        "vars.ablation_seeds": 2,
        "vars.ablation_limit": 3,
    }
    config = load_project_config(ROOT, overrides=overrides)
    assert {key.removeprefix("vars.") for key in overrides} <= set(config["vars"])
    (command,) = (each for each in config["commands"] if each["name"] == "ablate-nuner")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    (line,) = command["script"]
    line = f"{line} --jobs 1"
    run(line)
    assert all(Path(output).exists() for output in command["outputs"])
    page = Path("metrics/ablate_nuner/ablation.md").read_text("utf8")
    assert [line[3:15] for line in page.splitlines() if line.startswith("## ")] == [
        "Text source",
        "Concept dive",
        "Data size: s",
        "Depth frozen",
        "Model size: ",
        "Negatives: c",
    ]
    assert "| k | sentences | passages |" in page
    assert "| 64 | 71.5 | 72.0 |" in page
    results = json.loads(Path("metrics/ablate_nuner/ablation.json").read_text("utf8"))
    variants = {(row["factor"], row["name"]): row for row in results["variants"]}
    assert variants["size", "0"]["epochs"] == 0
    assert variants["size", "20"]["runs"] == variants["depth", "2"]["runs"]
    # A run that was interrupted goes on where it stopped; what another table has is not run again.
    log = Path("metrics/ablate_nuner/ablation.jsonl")
    lines = log.read_text("utf8").splitlines(keepends=True)
    rows = {(row["factor"], row["name"]): each for each in lines for row in [json.loads(each)]}
    missing = rows["depth", "2"]
    log.write_text("".join(each for each in lines if each != missing), "utf8")
    run(f"{line} --resume")
    lines = [*(each for each in lines if each != missing), missing]
    assert log.read_text("utf8").splitlines(keepends=True) == lines
    # Those of other settings are made anew, and stay.
    run(f"{line} --resume --limit 2 --factor frozen")
    again = log.read_text("utf8").splitlines(keepends=True)
    assert again[: len(lines)] == lines
    assert {json.loads(each)["made_with"]["limit"] for each in again[len(lines) :]} == {2}
    run(f"{line} --factor weather", code=1)
    run(f"{line} --steps 0", code=2)
