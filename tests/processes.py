"""A module of the project as several processes that train together, on CPUs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Gloo otherwise asks the machine's own name for an address, which may lead nowhere.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "TOKENIZERS_PARALLELISM": "0"}


def launch(number: int, *command: object, seconds: float = 300, **environment: str) -> str:
    """`python -m MODULE ...` as so many processes; all end with the time.

    `accelerate launch --cpu` would start a single process, however many it is asked for.
    """
    start = ["-m", "torch.distributed.run", "--nproc_per_node", str(number)]
    start += ["--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    # A Trainer leaves its settings, such as the precision, in the environment for the next one.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("ACCELERATE_")}
    process = subprocess.Popen(
        [sys.executable, *start, "-m", *map(str, command)],
        cwd=ROOT,
        env={**inherited, **ENVIRONMENT, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    finally:
        if process.poll() is None:
            process.terminate()  # then the launcher ends the processes that it has started
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output
    return output


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
