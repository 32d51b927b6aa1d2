"""Trainings side by side: results of all, and an end with the program that asked for them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from scripts.side_by_side import side_by_side

ROOT = Path(__file__).parents[1]

PROGRAM = """
import sys
from pathlib import Path
from scripts.side_by_side import side_by_side
from tests.test_side_by_side import sit

if __name__ == "__main__":
    list(side_by_side(sit, [Path(name) for name in sys.argv[1:]], jobs=2))
"""


def double(number: int) -> int:
    return 2 * number


def sit(path: Path) -> None:
    """Leave the number of this process, and stay."""
    path.with_suffix(".part").write_text(f"{os.getpid()}", encoding="utf8")
    path.with_suffix(".part").replace(path)
    time.sleep(600)


def is_running(number: int) -> bool:
    """Whether a process is there and no zombie."""
    return psutil.pid_exists(number) and psutil.Process(number).status() != psutil.STATUS_ZOMBIE


def test_all_results_come_in_one_process_and_in_two():
    for jobs in (1, 2):
        assert sorted(side_by_side(double, [1, 2, 3], jobs=jobs)) == [2, 4, 6]


def test_processes_end_with_the_one_that_started_them(tmp_path: Path):
    paths = [tmp_path / name for name in ("a", "b")]
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf8")
    process = subprocess.Popen(
        [sys.executable, program, *paths], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    try:
        started = time.monotonic()
        while not all(path.exists() for path in paths):
            assert process.poll() is None and time.monotonic() - started < 120
            time.sleep(0.1)
        workers = [int(path.read_text("utf8")) for path in paths]
        assert all(map(is_running, workers))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    ended = time.monotonic()
    while any(map(is_running, workers)):
        assert time.monotonic() - ended < 30
        time.sleep(0.1)
