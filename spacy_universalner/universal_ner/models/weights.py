"""Loading causal language models: lazily, and once per process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.configuration_utils import PretrainedConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from spacy_universalner.pretrained import unavailable

DTYPES = ("auto", "float32", "bfloat16", "float16", "int8", "int4")


@dataclass(frozen=True)
class Source:
    """Where weights come from and how they are held.

    name (str): Hub id or local folder.
    revision (str): Branch, tag or commit on the hub.
    adapter (str | None): Folder or hub id of a LoRA adapter, merged into the weights.
    dtype (str): One of `DTYPES`; "auto" is what the weights are saved in.
    device (str | None): A torch device; None is the first GPU, or the CPU where there is none.
    device_map (str | None): How accelerate spreads the weights, such as "auto"; instead of
        `device`.
    """

    name: str
    revision: str = "main"
    adapter: str | None = None
    dtype: str = "auto"
    device: str | None = None
    device_map: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"Unknown dtype '{self.dtype}'. Expected one of: {', '.join(DTYPES)}.")
        if self.device is not None and self.device_map is not None:
            raise ValueError(
                f"device = '{self.device}' and device_map = '{self.device_map}' exclude each "
                "other. Set one of them."
            )
        if self.dtype in ("int8", "int4") and not find_spec("bitsandbytes"):
            raise ImportError(
                f"dtype = '{self.dtype}' needs the package bitsandbytes and a GPU. Install it with "
                "`pip install bitsandbytes`, or use 'bfloat16'."
            )


def load_model(source: Source) -> PreTrainedModel:
    """Load the weights, or take those that this process already holds.

    source (Source): Where they come from.
    RETURNS (PreTrainedModel): The model, ready for inference.
    RAISES (OSError): It is neither in a local folder nor on the hub.
    """
    return _load_model(source, _state(source))


def load_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """Load the tokenizer only; once per process.

    source (Source): Where it comes from.
    RETURNS (PreTrainedTokenizerBase): The tokenizer.
    RAISES (OSError): It is neither in a local folder nor on the hub.
    """
    return _load_tokenizer(source.name, source.revision, _state(source))


def load_config(source: Source) -> PretrainedConfig:
    """Load the configuration only.

    source (Source): Where it comes from.
    RETURNS (PretrainedConfig): The configuration.
    RAISES (OSError): It is neither in a local folder nor on the hub.
    """
    return _load_config(source.name, source.revision, _state(source))


def fingerprint(source: Source) -> str:
    """Name the weights so that different weights have different names.

    source (Source): Where they come from.
    RETURNS (str): For local folders the digest of their files, wherever they lie; for the hub
        the id and the commit, for which the configuration is downloaded if it has not been yet;
        the revision where it cannot be had.
    """
    parts = [_fingerprint(source.name, source.revision)]
    if source.adapter is not None:
        parts.append(_fingerprint(source.adapter, "main", "adapter_config.json"))
    return "+".join(parts)


# Two, so that a pipeline can be compared with another one without loading either twice.
@lru_cache(maxsize=2)
def _load_model(source: Source, state: Any) -> PreTrainedModel:
    settings: dict[str, Any] = {"torch_dtype": source.dtype}
    if source.dtype in ("int8", "int4"):
        from transformers.utils.quantization_config import BitsAndBytesConfig

        settings["torch_dtype"] = "auto"
        settings["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=source.dtype == "int8",
            load_in_4bit=source.dtype == "int4",
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    device = source.device or ("cuda" if torch.cuda.is_available() else "cpu")
    # Quantised weights and spread ones are put in place while they are read.
    placed = source.device_map is not None or "quantization_config" in settings
    if placed:
        settings["device_map"] = source.device_map or {"": device}
    with explained(source.name):
        model = AutoModelForCausalLM.from_pretrained(
            source.name, revision=source.revision, trust_remote_code=False, **settings
        )
    if source.adapter is not None:
        # Not before: a saved pipeline names the adapter in its config and has it in its weights.
        if not find_spec("peft"):
            raise ImportError(
                f"The adapter '{source.adapter}' needs the package peft. Install it with "
                "`pip install peft`, or merge the adapter into the weights."
            )
        from peft import PeftModel

        with explained(source.adapter):
            model = PeftModel.from_pretrained(model, source.adapter).merge_and_unload()
    if not placed:
        model.to(device)
    return model.eval()


@lru_cache(maxsize=8)
def _load_tokenizer(name: str, revision: str, state: Any) -> PreTrainedTokenizerBase:
    with explained(name):
        return AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)


@lru_cache(maxsize=8)
def _load_config(name: str, revision: str, state: Any) -> PretrainedConfig:
    with explained(name):
        return AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Say in one message what is missing and what to do about it."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise unavailable(name, "the language model", error) from error


def _state(source: Source) -> tuple[Any, ...]:
    """What changes when the files of a local folder do, so that new weights are read again."""
    folders = [Path(source.name)]
    if source.adapter is not None:
        folders.append(Path(source.adapter))
    return tuple(_files(folder) for folder in folders)


def _files(folder: Path) -> tuple[tuple[str, int, int], ...]:
    if not folder.is_dir():
        return ()
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files)


def _fingerprint(name: str, revision: str, config_name: str = "config.json") -> str:
    files = _files(Path(name))
    if files:
        return _digest(files)
    from transformers.utils.hub import cached_file, extract_commit_hash

    find = partial(
        cached_file,
        name,
        config_name,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    config = find(local_files_only=True)
    if config is None:
        # Now, or the weights would have another name once they are loaded, and what was answered
        # under this one would be asked again. That they are absent is said when they are needed.
        with suppress(OSError):
            config = find()
    return f"{name}@{extract_commit_hash(config, None) or revision}"


@lru_cache(maxsize=8)
def _digest(files: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, size, _ in files:
        digest.update(f"{Path(path).name} {size}\n".encode())
        with Path(path).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
