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

from spacy_universalner.pretrained import resolve

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
    """The sha256 of a file, in hexadecimal; of a folder that of its files' names and checksums.

    path (Path): The file, which is read in pieces, or the folder, with all folders in it.
    RETURNS (str): 64 digits.
    """
    digest = hashlib.sha256()
    if path.is_dir():
        for each in _files(path):
            digest.update(f"{checksum(each)}  {each.relative_to(path).as_posix()}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def folder_checksums(name: str | Path) -> dict[str, str]:
    """The checksums of a model's files, as a folder of the same name may come to hold another.

    name (str | Path): A folder, with all folders in it; "embedded"; or a name on a hub.
    RETURNS (dict[str, str]): From path to sha256; empty for a name.
    """
    return {str(path): checksum(path) for path in _files(Path(resolve(str(name))))}


def provenance(data: Iterable[Path], weights: Iterable[str | Path] = ()) -> dict[str, Any]:
    """When, where, with which versions, on which data and with which weights a result was made.

    data (Iterable[Path]): The files that were read.
    weights (Iterable[str | Path]): The encoders or pipelines that were run, as `folder_checksums`
        takes them.
    RETURNS (dict[str, Any]): `created` (UTC), `data` (path to sha256), `weights` (the same for
        each file), `packages` (name to version, of those installed), `python` and `machine`.
    """
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "data": {str(path): checksum(path) for path in data},
        "weights": dict(item for name in weights for item in folder_checksums(name).items()),
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


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


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
