"""The map of concepts: sizes, page, picture, projection."""

import importlib.util
import json
import re

import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

from scripts import concept_map
from scripts.concept_map import read_pretraining
from spacy_universalner.data.readers import write_passages
from spacy_universalner.evaluation.concept_map import (
    ConceptMap,
    draw_image,
    draw_page,
    make_concept_map,
)
from spacy_universalner.nuner.pretrain import METRICS_FILE, pretrain
from spacy_universalner.nuner.pretrain_settings import PretrainSettings
from spacy_universalner.ty import Mention, Passage

MAP = ConceptMap(
    names=["person", "</script><b>city</b>", "fleuve é"],
    counts=[99, 9, 1],
    positions=np.array([[0.0, 0.0], [1.0, 0.5], [0.5, 1.0]]),
    colours=np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
)


def test_areas_grow_with_the_logarithm_of_the_frequency():
    radii = MAP.radii
    assert radii[0] == 1.0
    assert radii[1] ** 2 == pytest.approx(np.log(10) / np.log(100))
    assert radii[2] ** 2 == pytest.approx(np.log(2) / np.log(100))


def test_page_holds_all_concepts_and_loads_nothing():
    page = draw_page(MAP, "3 concepts of <corpus>")
    rows = json.loads(re.search(r"const rows = (.*);\n", page)[1])
    assert [row[:2] for row in rows] == [
        ["person", 99],
        ["</script><b>city</b>", 9],
        ["fleuve é", 1],
    ]
    assert rows[1][2:4] == [1.0, 0.5]
    assert rows[2][5:] == [0, 0, 255]
    assert page.count("</script>") == 1
    assert "3 concepts of &lt;corpus&gt;" in page
    assert '<input id="search" type="search"' in page
    assert 'search.addEventListener("input"' in page
    assert not re.search(r"(?:src|href)\s*=", page)
    assert "http" not in page


def test_picture_has_a_disk_for_each_concept(tmp_path):
    pytest.importorskip("matplotlib")
    figure = draw_image(MAP, "concepts")
    (disks,) = figure.axes[0].collections
    assert disks.get_offsets().tolist() == MAP.positions.tolist()
    figure.savefig(tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 1000


def test_of_names_that_would_overlap_the_commonest_is_written():
    pytest.importorskip("matplotlib")
    names = ["date", "time", "place"]
    beside = ConceptMap(names, [9, 5, 1], np.array([[0, 0], [0.02, 0], [1, 0]]), MAP.colours)
    above = ConceptMap(names, [9, 5, 1], np.array([[0, 0], [0.02, 0.5], [1, 0]]), MAP.colours)
    written = [
        [text.get_text() for text in draw_image(each, "concepts").axes[0].texts]
        for each in (beside, above)
    ]
    assert written == [["date", "place"], ["date", "time", "place"]]


def test_commonest_concepts_come_first():
    pytest.importorskip("umap")
    vectors = np.random.default_rng(0).normal(size=(30, 8))
    counts = {f"concept {index:02}": index % 5 + 1 for index in range(30)}
    first = make_concept_map(counts, vectors, seed=1)
    assert first.counts == sorted(counts.values(), reverse=True)
    assert first.names[0] == "concept 04"
    assert first.positions.shape == (30, 2)
    assert first.colours.shape == (30, 3)
    for values in (first.positions, first.colours):
        assert (values.min(0) == 0).all()
        assert (values.max(0) == 1).all()
    assert np.array_equal(first.positions, make_concept_map(counts, vectors, seed=1).positions)


def test_a_folder_without_a_concept_encoder_is_named(tmp_path):
    with pytest.raises(ValueError, match="has no concept encoder: it is no output of pretrain"):
        read_pretraining(tmp_path)
    (tmp_path / METRICS_FILE).write_text('{"passages": 3}', "utf8")
    with pytest.raises(ValueError, match="has no concept encoder"):
        read_pretraining(tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("umap") is not None, reason="UMAP is installed")
def test_missing_umap_is_named_with_its_extra():
    with pytest.raises(ImportError, match=r"pip install 'spacy-universalner\[map\]'"):
        make_concept_map({"a": 1}, np.zeros((1, 2)))


def test_a_map_is_drawn_of_what_pre_training_leaves(tmp_path, tiny_bert):
    """Or, without UMAP, the script ends with what is missing, and with no page."""
    labels = ["person"] * 50 + [f"type {i}" for i in range(30)]
    passages = [
        Passage(f"{i}", "Ada ran", (Mention(0, 3, label),)) for i, label in enumerate(labels)
    ]
    write_passages(tmp_path / "corpus.jsonl", passages)
    settings = PretrainSettings(encoder=str(tiny_bert), epochs=1, batch_size=8)
    pretrain(passages, tmp_path / "encoder", settings, progress=False)
    page = tmp_path / "map.html"
    script = Typer()
    script.command()(concept_map.main)
    arguments = [tmp_path / "encoder", tmp_path / "corpus.jsonl", page]
    result = CliRunner().invoke(script, list(map(str, arguments)))
    if importlib.util.find_spec("umap") is None:
        assert result.exit_code == 1 and not page.exists()
        assert "spacy-universalner[map]" in "".join(result.output.split())
    else:
        assert result.exit_code == 0, result.output
        assert '["person", 50, ' in page.read_text("utf8")
