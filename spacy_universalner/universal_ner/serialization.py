"""The weights of a language model as part of a serialised pipeline."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from spacy_universalner.pretrained import resolve

# MessagePack cannot hold more than 4 GiB in one piece.
_PIECE = 1 << 30


@runtime_checkable
class ModelWithWeights(Protocol):
    """A model whose weights can travel with the pipeline.

    source (Any): Has the `name` that the weights were given by and the `adapter`, if any.
    """

    source: Any

    def save_weights(self, folder: Path) -> None: ...

    def load_weights(self, folder: Path) -> None: ...


def has_local_weights(model: ModelWithWeights) -> bool:
    """Whether the weights are files that another machine may not have, and no hub id.

    model (ModelWithWeights): The model.
    RETURNS (bool): True if the weights or their adapter are a local folder.
    """
    names = (resolve(model.source.name), model.source.adapter)
    return any(name is not None and Path(name).is_dir() for name in names)


def save(model: ModelWithWeights, folder: Path) -> None:
    """Write a model's weights into a folder, in place of what it holds.

    model (ModelWithWeights): The model.
    folder (Path): Where to. If the weights are there already, nothing happens.
    """
    origin = Path(resolve(model.source.name))
    if model.source.adapter is None and origin.resolve() == folder.resolve():
        return
    folder.mkdir(parents=True, exist_ok=True)
    # Beside it first: they may come from this very folder. Files of other weights must not stay,
    # since whoever loads the folder might prefer them.
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        model.save_weights(Path(scratch))
        for path in folder.iterdir():
            if path.is_file():
                path.unlink()
        for path in Path(scratch).iterdir():
            path.replace(folder / path.name)


def pack(model: ModelWithWeights) -> dict[str, list[bytes]]:
    """Turn a model's weights into bytes.

    model (ModelWithWeights): The model.
    RETURNS (dict[str, list[bytes]]): From file name to contents, in pieces.
    """
    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder))
        return {path.name: _read(path) for path in sorted(Path(folder).iterdir())}


def unpack(files: dict[str, list[bytes]]) -> Path:
    """Turn bytes into a folder of weights.

    files (dict[str, list[bytes]]): What `pack` has returned.
    RETURNS (Path): A folder that is deleted when this process ends; the same for the same files,
        so that they are loaded once.
    """
    digest = hashlib.sha256()
    for name, pieces in sorted(files.items()):
        digest.update(name.encode("utf8") + b"\0")
        for piece in pieces:
            digest.update(piece)
    folder = _scratch() / digest.hexdigest()
    if not folder.exists():
        folder.mkdir()
        for name, pieces in files.items():
            with (folder / name).open("wb") as file:
                file.writelines(pieces)
    return folder


@cache
def _scratch() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="universal_ner-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _read(path: Path) -> list[bytes]:
    with path.open("rb") as file:
        return list(iter(lambda: file.read(_PIECE), b""))
