"""A stage's record, the minutes that earlier stages leave to it, and commands side by side."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from spacy_universalner.evaluation.provenance import count_cores

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


def test_without_a_limit_nothing_is_left_to_count(tmp_path: Path) -> None:
    record(tmp_path, "train", 6000)
    assert run(tmp_path, "finetune", "--after", "train").stdout == "0.0\n"


def test_a_whole_stage_takes_the_place_of_its_steps(tmp_path: Path) -> None:
    for name in ("train.nuner", "train.base", "train-few-shot.train"):
        record(tmp_path, name, 60)
    run(tmp_path, "train")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["train-few-shot.train.json", "train.json"]


def test_a_stage_that_fails_leaves_no_record(tmp_path: Path) -> None:
    assert run(tmp_path, "train.nuner", code="raise SystemExit(3)").returncode == 3
    assert not list(tmp_path.iterdir())


# Writes a file and waits until another process has written one too
MEET = """
import sys, time
from pathlib import Path
mine, other = map(Path, sys.argv[1:])
mine.touch()
end = time.monotonic() + 30
while not other.exists():
    if time.monotonic() > end:
        sys.exit(f"{other} did not come")
    time.sleep(0.01)
print(f"met {other.name}")
"""


def run_two(folder: Path, first: list[str], second: list[str], *options: str) -> tuple[int, str]:
    """Exit code, and what was written with its carriage returns."""
    command = [
        sys.executable,
        "-m",
        "scripts.stage",
        "train",
        "--output-dir",
        str(folder),
        *options,
    ]
    python = ["--", "python", "-c"]
    ran = subprocess.run(
        [*command, *python, *first, *python, *second], cwd=ROOT, stdout=subprocess.PIPE
    )
    return ran.returncode, ran.stdout.decode()


@pytest.mark.skipif(count_cores() < 2, reason="one core")
def test_commands_run_side_by_side_and_have_one_record(tmp_path: Path) -> None:
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    records = tmp_path / "records"
    code, written = run_two(records, [MEET, a, b], [MEET, b, a])
    assert code == 0, written
    lines = written.splitlines()
    assert "[1] met b" in lines
    assert "[2] met a" in lines
    (path,) = records.iterdir()
    record = json.loads(path.read_text("utf8"))
    assert (record["stage"], record["step"]) == ("train", "")
    assert record["command"].count(" & python -c") == 1


@pytest.mark.skipif(count_cores() < 2, reason="one core")
def test_the_first_command_to_fail_ends_the_others(tmp_path: Path) -> None:
    start = time.monotonic()
    code, written = run_two(
        tmp_path / "records",
        ["import time; time.sleep(60)"],
        ["print('no such file'); raise SystemExit(3)"],
    )
    assert code == 3
    assert time.monotonic() - start < 50
    assert "[2] no such file" in written.splitlines()
    assert not (tmp_path / "records").exists()


@pytest.mark.skipif(count_cores() < 2, reason="one core")
def test_whoever_ends_the_stage_ends_its_commands(tmp_path: Path) -> None:
    wait = "import os, sys, time; from pathlib import Path; "
    wait += "Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(60)"
    files = [tmp_path / "a", tmp_path / "b"]
    command = [sys.executable, "-m", "scripts.stage", "train", "--output-dir", str(tmp_path)]
    for file in files:
        command += ["--", "python", "-c", wait, str(file)]
    stage = subprocess.Popen(command, cwd=ROOT)
    end = time.monotonic() + 60
    while not all(file.exists() and file.read_text() for file in files):
        assert time.monotonic() < end
        time.sleep(0.05)
    stage.terminate()
    assert stage.wait(30) == 128 + signal.SIGTERM
    assert not any(psutil.pid_exists(int(file.read_text())) for file in files)


def test_with_a_gpu_commands_run_in_turn(tmp_path: Path) -> None:
    write = "from pathlib import Path; Path('{0}').mkdir(); print('made')"
    move = "from pathlib import Path; Path('{0}').rmdir(); print('removed')"
    folder = str(tmp_path / "a")
    _, written = run_two(tmp_path, [write.format(folder)], [move.format(folder)], "--gpu-id", "0")
    assert written.splitlines() == ["made", "removed"]
    code, written = run_two(tmp_path, ["raise SystemExit(2)"], ["print('never')"], "--gpu-id", "0")
    assert (code, written) == (2, "")


@pytest.mark.skipif(count_cores() < 2, reason="one core")
def test_progress_bars_stay_in_place(tmp_path: Path) -> None:
    bar = "import sys; sys.stdout.write('\\r 1%\\r 2%\\n'); print('é' * 3)"
    _, written = run_two(tmp_path, [bar], ["pass"])
    assert "\r[1]  1%\r[1]  2%\n[1] ééé\n" in written.replace("[2] python -c pass\n", "")
