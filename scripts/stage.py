"""Run one step of the workflow as processes of its own and record how long it took."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from codecs import getincrementaldecoder
from collections.abc import Iterator
from datetime import datetime, timezone
from itertools import groupby
from pathlib import Path
from threading import Lock, Thread
from typing import IO

import typer

from spacy_universalner.evaluation.provenance import count_cores

# What stands in a command for the minutes that are left to it.
MINUTES = "{minutes}"
LEAST_MINUTES = 1.0

# Training on a CPU allocates the same large tensors in every step. By default glibc takes each from
# the system and gives it back, and the system clears it page by page: up to a third of all time.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}

# What a terminal takes for: clear the line from here on.
ERASE = "\x1b[K"


def main(
    name: str = typer.Argument(..., help="STAGE or STAGE.STEP, such as train.full"),
    command: list[str] = typer.Argument(
        ..., help="The command, after `--`; several, with `--` between them, run side by side"
    ),
    output_dir: Path = typer.Option(Path("metrics/stages"), file_okay=False),
    within: float = typer.Option(
        0.0,
        help="Minutes for this stage and those before it; what is left stands for {minutes}. 0 for "
        "no limit, and 0 stands for it then",
    ),
    after: str = typer.Option("", help="The stages before it, separated by commas"),
    gpu_id: int = typer.Option(-1, help="With a GPU, several commands run one after the other"),
) -> None:
    """Run COMMAND; when it succeeds, write its wall-clock seconds to OUTPUT_DIR/NAME.json.

    A machine that has been fast so far leaves more time to a training whose steps are worth it.
    Commands side by side have an equal share of the cores each: small models keep one core busier
    than two.
    """
    left = 0.0
    if within:
        left = within - spent_minutes(output_dir, after.split(","))
        left = round(max(LEAST_MINUTES, left), 1)
    command = [str(left) if part == MINUTES else part for part in command]
    commands = list(split(command))
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    clock = time.perf_counter()
    if gpu_id >= 0 or count_cores() < len(commands) or len(commands) == 1:
        code = run_in_turn(commands)
    else:
        code = run_together(commands)
    if code != 0:
        raise typer.Exit(code)
    stage, _, step = name.partition(".")
    record = {
        "stage": stage,
        "step": step,
        "command": " & ".join(map(" ".join, commands)),
        "started": started,
        "seconds": round(time.perf_counter() - clock, 1),
    }
    output_dir.mkdir(parents=True, exist_ok=True)
    if not step:  # it is the whole stage, so records of its steps are of an earlier run
        for path in output_dir.glob(f"{stage}.*.json"):
            path.unlink()
    (output_dir / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf8")


def split(parts: list[str]) -> Iterator[list[str]]:
    """Split what stands on the command line into commands."""
    for is_command, command in groupby(parts, lambda part: part != "--"):
        if is_command:
            yield list(command)


def run_in_turn(commands: list[list[str]]) -> int:
    """Run commands one after the other. RETURNS (int): The first exit code that is not 0."""
    codes = (
        subprocess.run(resolve(c), check=False, env=environment()).returncode for c in commands
    )
    return next((code for code in codes if code), 0)


def run_together(commands: list[list[str]]) -> int:
    """Run commands side by side; the first that fails ends the others.

    RETURNS (int): Its exit code, or 0.
    """
    env = environment(threads=max(1, count_cores() // len(commands)))
    processes = [
        subprocess.Popen(resolve(c), env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for c in commands
    ]
    lock = Lock()
    readers = [
        Thread(target=relay, args=(process.stdout, f"[{number}] ", lock))
        for number, process in enumerate(processes, 1)
    ]
    for number, command in enumerate(commands, 1):
        typer.echo(f"[{number}] {' '.join(command)}")
    for reader in readers:
        reader.start()
    failed = 0
    running = list(processes)
    # Whoever ends this process ends the commands too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        while running and not failed:
            time.sleep(0.1)
            running = [process for process in running if process.poll() is None]
            failed = next((process.returncode for process in processes if process.returncode), 0)
    finally:
        for process in running:
            process.terminate()
        for process, reader in zip(processes, readers, strict=True):
            process.wait()
            reader.join()
    return failed


def relay(output: IO[bytes], prefix: str, lock: Lock) -> None:
    """Show what a command writes, line by line and each progress bar in place."""
    # Else the end of a progress bar would stand behind a shorter line
    prefix = ERASE + prefix if sys.stdout.isatty() else prefix
    rest, decoder = "", getincrementaldecoder("utf8")("replace")
    with output:
        while chunk := os.read(output.fileno(), 1 << 16):
            *lines, rest = re.split(r"(?<=[\r\n])", rest + decoder.decode(chunk))
            with lock:
                for line in filter(str.strip, lines):
                    sys.stdout.write(f"\r{prefix}{line}" if line.endswith("\r") else prefix + line)
                sys.stdout.flush()
    with lock:
        sys.stdout.write(f"{prefix}{rest}\n" if rest.strip() else "")
        sys.stdout.flush()


def resolve(command: list[str]) -> list[str]:
    """Take `python` for the interpreter that runs the project, as Weasel does."""
    return [sys.executable, *command[1:]] if command[0] == "python" else command


def environment(threads: int | None = None) -> dict[str, str]:
    """The variables of a command, with so many threads for what it computes."""
    shared = {} if threads is None else {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    return {**KEEP_MEMORY, **shared, **os.environ}


def spent_minutes(records: Path, stages: list[str]) -> float:
    """Minutes that stages took when they last ran, by their records."""
    runs = [json.loads(path.read_text(encoding="utf8")) for path in records.glob("*.json")]
    return float(sum(run["seconds"] for run in runs if run["stage"] in stages)) / 60


if __name__ == "__main__":
    typer.run(main)
