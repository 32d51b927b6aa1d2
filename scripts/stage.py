"""Run one step of the workflow as its own process and record how long it took."""

import json
import os
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import typer

# What stands in a command for the minutes that are left to it.
MINUTES = "{minutes}"
LEAST_MINUTES = 1.0

# Training on a CPU allocates the same large tensors in every step. By default glibc takes each from
# the system and gives it back, and the system clears it page by page: up to a third of all time.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}


def main(
    name: str = typer.Argument(..., help="STAGE or STAGE.STEP, such as train.full"),
    command: list[str] = typer.Argument(..., help="The command, after `--`"),
    output_dir: Path = typer.Option(Path("metrics/stages"), file_okay=False),
    within: float = typer.Option(
        0.0, help="Minutes for this stage and those before it; what is left stands for {minutes}"
    ),
    after: str = typer.Option("", help="The stages before it, separated by commas"),
) -> None:
    """Run COMMAND; when it succeeds, write its wall-clock seconds to OUTPUT_DIR/NAME.json.

    A machine that has been fast so far leaves more time to a training whose steps are worth it.
    """
    if within:
        left = within - spent_minutes(output_dir, after.split(","))
        left = round(max(LEAST_MINUTES, left), 1)
        command = [str(left) if part == MINUTES else part for part in command]
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    clock = time.perf_counter()
    if command[0] == "python":  # as Weasel does: the interpreter that runs the project
        command = [sys.executable, *command[1:]]
    code = subprocess.run(command, check=False, env={**KEEP_MEMORY, **os.environ}).returncode
    if code != 0:
        raise typer.Exit(code)
    stage, _, step = name.partition(".")
    record = {
        "stage": stage,
        "step": step,
        "command": " ".join(command),
        "started": started,
        "seconds": round(time.perf_counter() - clock, 1),
    }
    output_dir.mkdir(parents=True, exist_ok=True)
    (output_dir / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf8")


def spent_minutes(records: Path, stages: list[str]) -> float:
    """Minutes that stages took when they last ran, by their records."""
    runs = [json.loads(path.read_text(encoding="utf8")) for path in records.glob("*.json")]
    return float(sum(run["seconds"] for run in runs if run["stage"] in stages)) / 60


if __name__ == "__main__":
    typer.run(main)
