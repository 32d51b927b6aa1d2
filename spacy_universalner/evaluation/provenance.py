"""What a result depends on, written into every result file."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "spacy-universalner",
    "spacy",
    "spacy-llm",
    "spacy-transformers",
    "torch",
    "transformers",
    "thinc",
    "numpy",
)


def checksum(path: Path) -> str:
    """The sha256 of a file, in hexadecimal.

    path (Path): The file; it is read in pieces.
    RETURNS (str): 64 digits.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def folder_checksums(name: str | Path) -> dict[str, str]:
    """The checksums of a model's files, as a folder of the same name may come to hold another.

    name (str | Path): A folder, or a name on a hub.
    RETURNS (dict[str, str]): From path to sha256; empty for a name.
    """
    folder = Path(name)
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return {str(path): checksum(path) for path in files if path.is_file()}


def provenance(data: Iterable[Path]) -> dict[str, Any]:
    """When, where, with which versions and on which data a result was made.

    data (Iterable[Path]): The files that were read.
    RETURNS (dict[str, Any]): `created` (UTC), `data` (path to sha256), `packages` (name to
        version, of those installed), `python` and `machine`.
    """
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "data": {str(path): checksum(path) for path in data},
        "packages": {name: number for name in PACKAGES if (number := _version(name))},
        "python": platform.python_version(),
        "machine": machine(),
    }


def machine() -> dict[str, Any]:
    """The machine this process runs on.

    RETURNS (dict[str, Any]): `system`, `processor`, `cores` (those this process may use) and
        `memory_gib`, where the system tells.
    """
    described: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": count_cores(),
    }
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        described["memory_gib"] = round(size / 2**30, 1)
    return described


def count_cores() -> int:
    """The cores that this process may use.

    RETURNS (int): At least 1.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text("utf8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
