"""The README's way from ten sentences to a pipeline, run as it stands there."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import spacy
from spacy.tokens import DocBin

from tests.nuner.test_cli import ROOT, cli


def read_section() -> str:
    page = (ROOT / "README.md").read_text(encoding="utf8")
    _, found, rest = page.partition("\n## Train from a handful of examples")
    assert found
    return rest.partition("\n## ")[0]


def test_ten_sentences_become_a_pipeline(tiny_bert, tmp_path, monkeypatch):
    section = read_section()
    code, *_ = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    (shell,) = re.findall(r"```bash\n(.*?)```", section, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    Path("corpus").mkdir()
    shutil.copytree(tiny_bert, tmp_path / "training" / "nuner-encoder")
    exec(code, {})
    docs = list(DocBin().from_disk("corpus/ships.spacy").get_docs(spacy.blank("en").vocab))
    assert len(docs) == 10
    assert sorted({ent.label_ for doc in docs for ent in doc.ents}) == ["CREW", "PORT", "SHIP"]
    lines = [shlex.split(line) for line in shell.replace("\\\n", " ").splitlines()]
    train, _, package, install = lines
    cli(*train[1:])
    assert spacy.load("training/ships/model-last").get_pipe("nuner").labels == (
        "CREW",
        "PORT",
        "SHIP",
    )
    # The wheel itself is made and installed in test_cli.
    Path("packages").mkdir()
    cli(*package[1:-1], "none")
    assert Path(install[-1]).parents[1].is_dir()
