"""An annotation run with a live model: real requests to a server on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("openai")

from spacy_universalner.data.annotation.templates import render_prompt
from tests import scripted_server
from tests.data.annotators import run
from tests.scripted_server import answer, drop, reply

CONFIGS = Path(__file__).parents[2] / "configs"
ERROR = reply({"error": {"message": "bad prompt"}}, 400)


def test_a_run_with_a_server_that_stumbles(tmp_path: Path) -> None:
    sentences = [f"Ada sent Bob {i} letters." for i in range(12)]
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(sentences), encoding="utf8")
    prompts = [render_prompt("uniner", sentence) for sentence in sentences]
    good = answer('[("Ada", "person"), ("Bob", "person")]')
    script = {prompt: [good] for prompt in prompts}
    script[prompts[3]] = [drop, good]  # tried again within the run
    script[prompts[5]] = [ERROR, good]  # not to be tried again: kept for the next run
    with scripted_server.run(script) as server:
        arguments = (
            *(CONFIGS / "annotate_uniner.cfg", texts, tmp_path / "out"),
            *("--llm", CONFIGS / "llm" / "openai_compatible.cfg"),
            *("--components.llm.model.model.base_url", server.base_url),
            *("--components.llm.model.model.interval", "0.01"),
        )
        run(*arguments)
        rejects = (tmp_path / "out_rejects.jsonl").read_text("utf8").splitlines()
        assert [json.loads(line)["id"] for line in rejects] == ["texts-6"]
        failed = json.loads(rejects[0])
        assert failed["reason"] == "no answer"
        assert failed["item"].startswith("No answer from") and "HTTP 400" in failed["item"]
        assert server.tries() == {prompt: 1 + (i == 3) for i, prompt in enumerate(prompts)}

        run(*arguments)
        assert sum(server.tries().values()) == 14
        assert server.tries()[prompts[5]] == 2
    assert (tmp_path / "out_rejects.jsonl").read_text("utf8") == ""
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["text"] for row in written] == sentences
    assert all(len(row["entities"]) == 2 for row in written)
