"""Run a module as `python -m` does, and print at the end which of Gloo's threads still run."""

import atexit
import runpy
import sys
from pathlib import Path


def tell() -> None:
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    # In one piece, as several processes speak at once
    sys.stdout.write(f"threads left: {sorted(name for name in names if 'gloo' in name)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    atexit.register(tell)
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
