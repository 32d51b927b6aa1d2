"""A stage's record, and the minutes that earlier stages leave to it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SAY = "import sys; print(sys.argv[1])"


def run(folder: Path, name: str, *options: str, code: str = SAY, argument: str = "{minutes}"):
    command = [sys.executable, "-m", "scripts.stage", name, "--output-dir", folder, *options]
    return subprocess.run(
        [*map(str, command), "--", "python", "-c", code, argument],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def record(folder: Path, name: str, seconds: float) -> None:
    stage, _, step = name.partition(".")
    content = {"stage": stage, "step": step, "seconds": seconds}
    (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf8")


def test_a_stage_gets_what_earlier_ones_have_left(tmp_path: Path) -> None:
    record(tmp_path, "train.nuner", 60)
    record(tmp_path, "train.base", 30)
    record(tmp_path, "evaluate", 600)
    options = ("--within", "4", "--after", "pretrain,train")
    assert run(tmp_path, "finetune", *options).stdout == "2.5\n"
    assert json.loads((tmp_path / "finetune.json").read_text("utf8"))["stage"] == "finetune"
    # Its own record does not count, and some time is left in any case.
    assert run(tmp_path, "finetune", *options).stdout == "2.5\n"
    record(tmp_path, "pretrain", 6000)
    assert run(tmp_path, "finetune", *options).stdout == "1.0\n"


def test_a_stage_that_fails_leaves_no_record(tmp_path: Path) -> None:
    assert run(tmp_path, "train.nuner", code="raise SystemExit(3)").returncode == 3
    assert not list(tmp_path.iterdir())
