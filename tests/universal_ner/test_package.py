import ast
import subprocess

import pytest
import spacy
from spacy.cli.package import package

from tests.environments import install_wheel

TEXT = "Marie Curie won the Nobel Prize in Paris."


@pytest.mark.slow
def test_a_wheel_runs_in_a_fresh_environment(tiny_llama, tmp_path, monkeypatch):
    nlp = spacy.blank("en")
    # Random weights, held to strings of the text: they do find something
    model = {
        "@llm_models": "spacy-universalner.HF.v1",
        "name": str(tiny_llama),
        "constrain": "text",
    }
    labels = ["person", "location", "award", "date"]
    nlp.add_pipe("universal_ner", config={"labels": labels, "model": model, "max_new_tokens": 24})
    expected = [(ent.start, ent.end, ent.label_, ent._.score) for ent in nlp(TEXT).ents]
    assert expected
    nlp.to_disk(tmp_path / "pipeline")
    # Without an index "build" cannot isolate itself, and spaCy falls back to setuptools
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    package(tmp_path / "pipeline", tmp_path, name="finder", create_wheel=True, create_sdist=False)
    (wheel,) = tmp_path.rglob("en_finder-*.whl")
    python = install_wheel(wheel, tmp_path / "env")
    code = (
        "import spacy; nlp = spacy.load('en_finder');"
        f"ents = nlp({TEXT!r}).ents;"
        "print([(ent.start, ent.end, ent.label_, ent._.score) for ent in ents]);"
        "print(nlp.meta['requirements'])"
    )
    run = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    found, requirements = run.stdout.strip().splitlines()
    found = ast.literal_eval(found)
    assert [ent[:3] for ent in found] == [ent[:3] for ent in expected], run.stderr
    # A fresh process may round in another order: it is another number of threads
    assert [ent[3] for ent in found] == pytest.approx([ent[3] for ent in expected], rel=1e-4)
    assert "spacy-universalner" in requirements
