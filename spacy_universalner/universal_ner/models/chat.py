"""A prompt as the user's turn of a chat, in the words of the model's own chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from spacy_universalner.universal_ner.tokenization import encode_plain, get_conventions

# Stands for the prompt while a template is rendered: a character that no template contains.
_PROMPT = "\ue000"


def encode_chat(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    system: str | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
) -> list[int]:
    """Tokenise a prompt as the user's turn of a chat, up to where the assistant's turn starts.

    The ids are those of `tokenizer.apply_chat_template`, but where the prompt spells a special
    token: there it is characters, so that nothing in a text can end the turn.

    tokenizer (PreTrainedTokenizerBase): A fast tokenizer with a chat template.
    prompt (str): The user's message.
    system (str | None): The system message, if any.
    template_kwargs (Mapping[str, Any] | None): Variables of the template, such as
        `{"enable_thinking": False}`.
    RETURNS (list[int]): Token ids.
    RAISES (ValueError): There is no chat template, or it cannot be used so.
    """
    before, after = _render(tokenizer, system, json.dumps(template_kwargs or {}))
    start, end = len(before), len(before) + len(prompt)
    encoding = tokenizer(
        before + prompt + after,
        add_special_tokens=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    ids: list[int] = encoding["input_ids"]
    specials = get_conventions(tokenizer).specials
    tokens = zip(ids, encoding["offset_mapping"], strict=True)
    if not any(id in specials and first < end and last > start for id, (first, last) in tokens):
        return ids
    opening, closing = (
        tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]
        for part in (before, after)
    )
    return [*opening, *(id for id, _, _ in encode_plain(tokenizer, prompt)), *closing]


@lru_cache(maxsize=32)
def _render(
    tokenizer: PreTrainedTokenizerBase, system: str | None, template_kwargs: str
) -> tuple[str, str]:
    """What the template writes before a prompt and after it."""
    name = tokenizer.name_or_path or type(tokenizer).__name__
    if not tokenizer.chat_template:
        raise ValueError(
            f"The tokenizer of {name} has no chat template. Set chat = false, or take a model that "
            "was tuned to chat."
        )
    turns = [] if system is None else [{"role": "system", "content": system}]
    turns.append({"role": "user", "content": _PROMPT})
    try:
        text = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, **json.loads(template_kwargs)
        )
    except TemplateError as error:
        raise ValueError(
            f"The chat template of {name} cannot be used with system = {system!r} and "
            f"chat_template_kwargs = {template_kwargs}: {error}"
        ) from error
    before, found, after = str(text).partition(_PROMPT)
    if not found:
        raise ValueError(f"The chat template of {name} leaves out what the user says.")
    return before, after
