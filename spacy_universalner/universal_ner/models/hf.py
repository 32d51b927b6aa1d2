"""`spacy-universalner.HF.v1`: any causal language model of Hugging Face, in this process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, Iterable  # noqa: UP035  (spacy-llm compares annotations with typing's)

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from spacy_universalner.pretrained import resolve
from spacy_universalner.ty import Answer
from spacy_universalner.universal_ner.models.answering import Answering
from spacy_universalner.universal_ner.models.chat import encode_chat
from spacy_universalner.universal_ner.models.decoding import Decoder
from spacy_universalner.universal_ner.models.positions import count_positions
from spacy_universalner.universal_ner.models.weights import (
    Source,
    fingerprint,
    load_config,
    load_model,
    load_tokenizer,
)
from spacy_universalner.universal_ner.tokenization import (
    encode_plain,
    encode_prompt,
    end_token_id,
)


def make_hf_model(
    name: str,
    revision: str = "main",
    adapter: str | None = None,
    dtype: str = "auto",
    device: str | None = None,
    device_map: str | None = None,
    max_new_tokens: int = 256,
    batch_tokens: int = 16384,
    constrain: str = "none",
    chat: bool = False,
    system: str | None = None,
    chat_template_kwargs: dict[str, Any] | None = None,
) -> HFModel:
    """Build a language model that runs in this process (spacy-llm: `@llm_models`).

    name (str): Hub id or local folder.
    revision (str): Branch, tag or commit on the hub.
    adapter (str | None): Folder or hub id of a LoRA adapter (package peft).
    dtype (str): "auto" (as the weights are saved), "float32", "bfloat16", "float16", or "int8"
        and "int4" (package bitsandbytes).
    device (str | None): A torch device; None is the first GPU, or the CPU where there is none.
    device_map (str | None): How accelerate spreads the weights, such as "auto".
    max_new_tokens (int): The longest answer, in tokens.
    batch_tokens (int): The most tokens, of prompts and answers at their longest, that are kept
        in memory at once. A shared beginning of a document's prompts counts once.
    constrain (str): "none" for free greedy decoding; "text" to allow only JSON lists of strings
        that stand in the text, for "all_in_one" an object of them.
    chat (bool): Whether a prompt is the user's turn in the model's own chat template: for general
        instruction-following models. UniversalNER's models are asked the prompt as it is.
    system (str | None): System message, for `chat`.
    chat_template_kwargs (dict[str, Any] | None): Variables of the chat template, such as
        `{"enable_thinking": False}`.
    RETURNS (HFModel): The model; its weights are loaded when they are first needed.
    RAISES (ValueError): A setting is out of its range, or needs another.
    """
    return HFModel(
        Source(name, revision, adapter, dtype, device, device_map),
        max_new_tokens=max_new_tokens,
        batch_tokens=batch_tokens,
        constrain=constrain,
        chat=chat,
        system=system,
        chat_template_kwargs=chat_template_kwargs,
    )


class HFModel:
    """A causal language model that answers documents' prompts together.

    source (Source): Where the weights come from.
    max_new_tokens (int): The longest answer, in tokens.
    batch_tokens (int): The most tokens kept in memory at once.
    constrain (str): "none" or "text".
    chat (bool): Whether prompts are turns of a chat.
    system (str | None): System message, for `chat`.
    chat_template_kwargs (Mapping[str, Any] | None): Variables of the chat template.
    RAISES (ValueError): A setting is out of its range, or needs another.
    """

    def __init__(
        self,
        source: Source,
        *,
        max_new_tokens: int,
        batch_tokens: int,
        constrain: str,
        chat: bool = False,
        system: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        for setting, value in (("max_new_tokens", max_new_tokens), ("batch_tokens", batch_tokens)):
            if value < 1:
                raise ValueError(f"{setting} = {value}: expected at least 1.")
        if constrain not in ("none", "text"):
            raise ValueError(f"Unknown constrain '{constrain}'. Expected one of: none, text.")
        for setting, needed in (("system", system), ("chat_template_kwargs", chat_template_kwargs)):
            if needed is not None and not chat:
                raise ValueError(
                    f"{setting} = {needed!r} needs chat = true: else there is no chat."
                )
        self.source = source
        self.max_new_tokens = max_new_tokens
        self.batch_tokens = batch_tokens
        self.constrain = constrain
        self.chat = chat
        self.system = system
        self.chat_template_kwargs = chat_template_kwargs

    def __call__(self, prompts: Iterable[Iterable[str]]) -> Iterable[Iterable[str]]:
        """Answer documents' prompts; spacy-llm's signature.

        prompts (Iterable[Iterable[str]]): For each document, its prompts.
        YIELDS (list[str]): The answers to a document's prompts.
        RAISES (ValueError): A prompt does not fit into the model's context.
        """
        for answers in self.answer(list(document) for document in prompts):
            for answer in answers:
                if answer.error is not None:
                    raise ValueError(answer.error)
            yield [answer.text for answer in answers]

    def answer(self, prompts: Iterable[Sequence[str]]) -> Iterator[list[Answer]]:
        """Answer documents' prompts, in order, reading ahead no further than it helps.

        The answer to a `Prompt` ends where its JSON list closes: what a model writes after that
        is not part of it. Any other string is answered up to the end token.

        prompts (Iterable[Sequence[str]]): For each document, its prompts. A `Prompt` is
            tokenised piece by piece; any other string as the tokenizer reads it.
        YIELDS (list[Answer]): The answers to a document's prompts. A prompt that does not fit
            into the model's context has an error instead of an answer.
        """
        stream = iter(prompts)
        first = next(stream, None)
        if first is not None:  # else nothing needs to be loaded
            yield from self._answering().answer(chain([first], stream))

    def count(self, prompt: str) -> int:
        """Count the tokens of a prompt as the model reads it.

        prompt (str): A `Prompt` or any other string.
        RETURNS (int): Their number.
        """
        return len(self._encode(self.tokenizer, prompt))

    def token_offsets(self, text: str) -> list[tuple[int, int]]:
        """Find the model's tokens in a text.

        text (str): Any text.
        RETURNS (list[tuple[int, int]]): Character offsets, end exclusive; no special tokens.
        """
        return [(start, end) for _, start, end in encode_plain(self.tokenizer, text)]

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """RETURNS (PreTrainedTokenizerBase): The tokenizer; it needs no weights."""
        return load_tokenizer(self.source)

    @property
    def context_length(self) -> int | None:
        """RETURNS (int | None): The most tokens of prompt and answer; None for no limit."""
        return count_positions(load_config(self.source))

    @property
    def identity(self) -> str:
        """RETURNS (str): What the answers depend on: weights, precision, decoding and chat."""
        depends = {
            "weights": fingerprint(self.source),
            "dtype": self.source.dtype,
            "max_new_tokens": self.max_new_tokens,
            "constrain": self.constrain,
        }
        if self.chat:
            depends["chat"] = [self.system, self.chat_template_kwargs]
        return json.dumps(depends, sort_keys=True)

    def save_weights(self, folder: Path | str) -> None:
        """Write configuration, weights and tokenizer.

        Files of a local folder are copied as they are, whatever precision they are held in here, so
        that the copy has the same identity; only an adapter has to be merged first.

        folder (Path | str): Where to; made if it does not exist.
        """
        folder, given = Path(folder), Path(resolve(self.source.name))
        folder.mkdir(parents=True, exist_ok=True)
        if given.is_dir() and self.source.adapter is None:
            for path in given.iterdir():
                if path.is_file():
                    shutil.copyfile(path, folder / path.name)
        else:
            load_model(self.source).save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)

    def load_weights(self, folder: Path | str) -> None:
        """Take the weights from a folder from now on.

        folder (Path | str): A folder that `save_weights` has written.
        """
        self.source = replace(self.source, name=str(folder), revision="main", adapter=None)

    def _encode(self, tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
        if not self.chat:
            return encode_prompt(tokenizer, prompt)
        return encode_chat(
            tokenizer, prompt, system=self.system, template_kwargs=self.chat_template_kwargs
        )

    def _answering(self) -> Answering:
        model, tokenizer = load_model(self.source), self.tokenizer
        ends = {end_token_id(tokenizer)}
        for config in (model.config, model.generation_config):
            end = getattr(config, "eos_token_id", None)
            ends.update(end if isinstance(end, list) else [] if end is None else [end])
        return Answering(
            Decoder(model, end_ids=ends, max_new_tokens=self.max_new_tokens),
            tokenizer,
            batch_tokens=self.batch_tokens,
            context_length=self.context_length,
            constrain=self.constrain,
            encode=self._encode,
        )
