"""A fresh virtual environment that has a wheel, and of this one's packages what it depends on."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]


def install_wheel(wheel: Path, folder: Path) -> Path:
    """RETURNS (Path): The environment's Python."""
    venv.create(folder)
    python = next(folder.glob("[bS]*/python*"))
    bases = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", scheme="venv", vars=bases))
    # What is tested is the package, not a download.
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}")
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    install = [*pip, "install", "--no-index", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    return python
