"""`spacy-universalner.HF.v1`: any causal language model of Hugging Face, in this process."""

from __future__ import annotations

import json
import shutil
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Iterable  # noqa: UP035  (spacy-llm compares annotations with typing's own)

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from spacy_universalner.ty import Answer, Prompt
from spacy_universalner.universal_ner.models.batching import Budget, Job, batches, split
from spacy_universalner.universal_ner.models.closing import find_close
from spacy_universalner.universal_ner.models.constrain import FromText, read_source
from spacy_universalner.universal_ner.models.decoding import (
    AnyAnswer,
    Decoder,
    Listener,
    Written,
)
from spacy_universalner.universal_ner.models.spelling import is_lossy, respell, spell
from spacy_universalner.universal_ner.models.weights import (
    Source,
    fingerprint,
    load_config,
    load_model,
    load_tokenizer,
)
from spacy_universalner.universal_ner.tokenization import (
    encode_pieces,
    encode_plain,
    end_token_id,
    get_conventions,
)

# Trees are sorted by size within this many batches' worth of them: more would pad less and keep
# the first answer waiting longer.
LOOK_AHEAD = 8


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
        that stand in the text.
    RETURNS (HFModel): The model; its weights are loaded when they are first needed.
    """
    return HFModel(
        Source(name, revision, adapter, dtype, device, device_map),
        max_new_tokens=max_new_tokens,
        batch_tokens=batch_tokens,
        constrain=constrain,
    )


class HFModel:
    """A causal language model that answers documents' prompts together.

    source (Source): Where the weights come from.
    max_new_tokens (int): The longest answer, in tokens.
    batch_tokens (int): The most tokens kept in memory at once.
    constrain (str): "none" or "text".
    """

    def __init__(
        self, source: Source, *, max_new_tokens: int, batch_tokens: int, constrain: str
    ) -> None:
        for setting, value in (("max_new_tokens", max_new_tokens), ("batch_tokens", batch_tokens)):
            if value < 1:
                raise ValueError(f"{setting} = {value}: expected at least 1.")
        if constrain not in ("none", "text"):
            raise ValueError(f"Unknown constrain '{constrain}'. Expected one of: none, text.")
        self.source = source
        self.max_new_tokens = max_new_tokens
        self.batch_tokens = batch_tokens
        self.constrain = constrain

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
        decoder, pending = None, Pending()
        for document in prompts:
            if decoder is None:
                decoder = self._decoder()
            self._plan(decoder, pending, document)
            if pending.cost >= LOOK_AHEAD * self.batch_tokens:
                yield from self._fulfil(decoder, pending)
                pending = Pending()
        if decoder is not None:
            yield from self._fulfil(decoder, pending)

    def count(self, prompt: str) -> int:
        """Count the tokens of a prompt as the model reads it.

        prompt (str): A `Prompt` or any other string.
        RETURNS (int): Their number.
        """
        return len(self._encode(prompt))

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
        config = load_config(self.source).get_text_config()
        for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
            length = getattr(config, name, None)
            if length is not None:
                return int(length)
        return None

    @property
    def identity(self) -> str:
        """RETURNS (str): What the answers depend on: weights, precision and decoding."""
        return json.dumps(
            {
                "weights": fingerprint(self.source),
                "dtype": self.source.dtype,
                "max_new_tokens": self.max_new_tokens,
                "constrain": self.constrain,
            },
            sort_keys=True,
        )

    def save_weights(self, folder: Path | str) -> None:
        """Write configuration, weights and tokenizer, with an adapter merged into the weights.

        folder (Path | str): Where to; made if it does not exist.
        """
        folder, given = Path(folder), Path(self.source.name)
        folder.mkdir(parents=True, exist_ok=True)
        if given.is_dir() and self.source.adapter is None:
            # As they are, whatever precision they are held in here.
            for path in given.iterdir():
                if path.is_file():
                    shutil.copy2(path, folder)
        else:
            load_model(self.source).save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)

    def load_weights(self, folder: Path | str) -> None:
        """Take the weights from a folder from now on.

        folder (Path | str): A folder that `save_weights` has written.
        """
        self.source = replace(self.source, name=str(folder), revision="main", adapter=None)

    def _decoder(self) -> Decoder:
        model = load_model(self.source)
        ends = {end_token_id(self.tokenizer)}
        for config in (model.config, model.generation_config):
            end = getattr(config, "eos_token_id", None)
            ends.update(end if isinstance(end, list) else [] if end is None else [end])
        return Decoder(model, end_ids=ends, max_new_tokens=self.max_new_tokens)

    def _encode(self, prompt: str) -> list[int]:
        if isinstance(prompt, Prompt):
            return encode_pieces(self.tokenizer, prompt.pieces).ids
        leading = get_conventions(self.tokenizer).leading
        return leading + self.tokenizer(prompt, add_special_tokens=False)["input_ids"]

    def _plan(self, decoder: Decoder, pending: Pending, document: Sequence[str]) -> None:
        """Tokenise a document's prompts and lay them out as trees; refuse those too long."""
        limit = self.context_length
        refused, encoded = {}, {}
        for number, prompt in enumerate(document):
            ids = self._encode(prompt)
            if limit is not None and len(ids) + self.max_new_tokens > limit:
                refused[number] = Answer(
                    "",
                    error=f"The prompt has {len(ids)} tokens; with max_new_tokens = "
                    f"{self.max_new_tokens} for the answer it exceeds the {limit} tokens that "
                    f"'{self.source.name}' can take. Use a smaller window or max_new_tokens.",
                )
            else:
                encoded[number] = ids
        budget = Budget(self.batch_tokens, self.max_new_tokens)
        longest = max(map(len, encoded.values()), default=0) + self.max_new_tokens
        jobs = split(len(pending.documents), encoded, budget, decoder.can_share(longest))
        pending.documents.append(document)
        pending.answers.append(refused)
        pending.jobs += jobs
        pending.cost += sum(budget.cost([job]) for job in jobs)

    def _fulfil(self, decoder: Decoder, pending: Pending) -> Iterator[list[Answer]]:
        """Answer what has been planned. YIELDS (list[Answer]): Each document's answers."""
        for batch in batches(pending.jobs, Budget(self.batch_tokens, self.max_new_tokens)):
            asked = [
                [pending.documents[job.document][number] for number in job.members] for job in batch
            ]
            listeners = [[self._listener(prompt) for prompt in prompts] for prompts in asked]
            written = decoder.decode([job.tree for job in batch], listeners)
            for job, prompts, answers in zip(batch, asked, written, strict=True):
                for number, prompt, answer in zip(job.members, prompts, answers, strict=True):
                    pending.answers[job.document][number] = self._read(prompt, answer)
        for answers_by_number in pending.answers:
            yield [answer for _, answer in sorted(answers_by_number.items())]

    def _listener(self, prompt: str) -> Listener:
        if self.constrain == "text":
            if not isinstance(prompt, Prompt) or not prompt.lists_strings:
                raise ValueError(
                    "constrain = 'text' needs prompts that are answered by a list of strings of "
                    "their text: not those of 'all_in_one', of discovery or of other tasks."
                )
            return FromText(
                read_source(self.tokenizer, prompt.source), end_token_id(self.tokenizer)
            )
        if isinstance(prompt, Prompt):
            return UntilClosed(self.tokenizer, closing_ids(self.tokenizer))
        return AnyAnswer()

    def _read(self, prompt: str, written: Written) -> Answer:
        """Turn tokens into an answer that ends where its list closes."""
        if isinstance(prompt, Prompt) and is_lossy(self.tokenizer):
            text, ends = respell(self.tokenizer, written.ids, prompt.source)
        else:
            text, ends = spell(self.tokenizer, written.ids)
        close = find_close(text) if isinstance(prompt, Prompt) else None
        if close is not None:
            tokens = bisect_left(ends, close) + 1
            text, ends = text[:close], [*ends[: tokens - 1], close]
            return Answer(text, tuple(ends), tuple(written.logprobs[:tokens]))
        return Answer(text, tuple(ends), tuple(written.logprobs), written.complete)


@dataclass
class Pending:
    """Documents whose prompts wait to be answered together.

    documents (list[Sequence[str]]): Their prompts.
    answers (list[dict[int, Answer]]): By the prompts' numbers, the answers there are already.
    jobs (list[Job]): The trees to be decoded.
    cost (int): The tokens that these take.
    """

    documents: list[Sequence[str]] = field(default_factory=list)
    answers: list[dict[int, Answer]] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    cost: int = 0


@dataclass
class UntilClosed:
    """Follows an answer up to where its list closes.

    tokenizer (PreTrainedTokenizerBase): Reads the tokens.
    closing (frozenset[int]): The tokens with a closing bracket.
    ids (list[int]): The answer so far.
    """

    tokenizer: PreTrainedTokenizerBase
    closing: frozenset[int]
    ids: list[int] = field(default_factory=list)

    def allowed(self) -> None:
        return None

    def push(self, token: int) -> bool:
        self.ids.append(token)
        if token not in self.closing:
            return False
        return find_close(spell(self.tokenizer, self.ids)[0]) is not None


@lru_cache(maxsize=8)
def closing_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Find the tokens with a closing bracket.

    tokenizer (PreTrainedTokenizerBase): The tokenizer.
    RETURNS (frozenset[int]): Their ids.
    """
    vocabulary = tokenizer.get_vocab().items()
    return frozenset(id for token, id in vocabulary if "]" in token or "}" in token)
