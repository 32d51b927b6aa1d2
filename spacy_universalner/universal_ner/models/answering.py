"""From prompts to answers: what is decoded together, and how tokens are read."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from spacy_universalner.ty import Answer, Prompt
from spacy_universalner.universal_ner.models.batching import Budget, Job, batches, split
from spacy_universalner.universal_ner.models.closing import find_close
from spacy_universalner.universal_ner.models.constrain import FromText, read_source
from spacy_universalner.universal_ner.models.decoding import AnyAnswer, Decoder
from spacy_universalner.universal_ner.models.spelling import is_lossy, respell, spell
from spacy_universalner.universal_ner.models.trees import Listener, Written
from spacy_universalner.universal_ner.tokenization import encode_prompt, end_token_id

# Trees are sorted by size within this many batches' worth of them: more would pad less and keep
# the first answer waiting longer.
LOOK_AHEAD = 8


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


class Answering:
    """Answers streams of documents' prompts with one model.

    decoder (Decoder): Writes the answers' tokens.
    tokenizer (PreTrainedTokenizerBase): A fast tokenizer.
    batch_tokens (int): The most tokens kept in memory at once.
    context_length (int | None): The most tokens of a prompt and its answer.
    constrain (str): "none" or "text".
    encode (Callable[[PreTrainedTokenizerBase, str], list[int]]): How a prompt becomes token ids.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_tokens: int,
        context_length: int | None,
        constrain: str,
        encode: Callable[[PreTrainedTokenizerBase, str], list[int]] = encode_prompt,
    ) -> None:
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._budget = Budget(batch_tokens, decoder.max_new_tokens)
        self._context_length = context_length
        self._constrain = constrain
        self._encode = encode
        self._lossy = is_lossy(tokenizer)

    def answer(self, prompts: Iterable[Sequence[str]]) -> Iterator[list[Answer]]:
        """Answer documents' prompts, in order; see `HFModel.answer`."""
        pending = Pending()
        for document in prompts:
            self._plan(pending, document)
            if pending.cost >= LOOK_AHEAD * self._budget.batch_tokens:
                yield from self._fulfil(pending)
                pending = Pending()
        yield from self._fulfil(pending)

    def _plan(self, pending: Pending, document: Sequence[str]) -> None:
        """Tokenise a document's prompts and lay them out as trees; refuse those too long."""
        limit, new = self._context_length, self._budget.max_new_tokens
        refused, encoded = {}, {}
        for number, prompt in enumerate(document):
            ids = self._encode(self._tokenizer, prompt)
            if limit is not None and len(ids) + new > limit:
                refused[number] = Answer(
                    "",
                    error=f"The prompt has {len(ids)} tokens; with max_new_tokens = {new} for the "
                    f"answer it exceeds the {limit} tokens that the model can take. Use a smaller "
                    "window or max_new_tokens.",
                )
            else:
                encoded[number] = ids
        longest = max(map(len, encoded.values()), default=0) + new
        share = self._decoder.can_share(longest)
        jobs = split(len(pending.documents), encoded, self._budget, share)
        pending.documents.append(document)
        pending.answers.append(refused)
        pending.jobs += jobs
        pending.cost += sum(self._budget.cost([job]) for job in jobs)

    def _fulfil(self, pending: Pending) -> Iterator[list[Answer]]:
        """Answer what has been planned. YIELDS (list[Answer]): Each document's answers."""
        for batch in batches(pending.jobs, self._budget):
            asked = [
                [pending.documents[job.document][number] for number in job.members] for job in batch
            ]
            listeners = [[self._listener(prompt) for prompt in prompts] for prompts in asked]
            written = self._decoder.decode([job.tree for job in batch], listeners)
            for job, prompts, answers in zip(batch, asked, written, strict=True):
                for number, prompt, answer in zip(job.members, prompts, answers, strict=True):
                    pending.answers[job.document][number] = self._read(prompt, answer)
        for by_number in pending.answers:
            yield [answer for _, answer in sorted(by_number.items())]

    def _listener(self, prompt: str) -> Listener:
        if self._constrain == "text":
            if not isinstance(prompt, Prompt) or prompt.keys is None:
                raise ValueError(
                    "constrain = 'text' needs prompts that are answered by lists of strings of "
                    "their text: not those of discovery or of other tasks."
                )
            source = read_source(self._tokenizer, prompt.source, prompt.keys)
            return FromText(source, end_token_id(self._tokenizer))
        if isinstance(prompt, Prompt):
            return UntilClosed(partial(self._spell, prompt), closing_ids(self._tokenizer))
        return AnyAnswer()

    def _read(self, prompt: str, written: Written) -> Answer:
        """Turn tokens into an answer that ends where its list closes."""
        text, ends = self._spell(prompt, written.ids)
        close = find_close(text) if isinstance(prompt, Prompt) else None
        if close is None:
            return Answer(text, tuple(ends), tuple(written.logprobs), written.complete)
        last = bisect_left(ends, close)
        return Answer(text[:close], (*ends[:last], close), tuple(written.logprobs[: last + 1]))

    def _spell(self, prompt: str, ids: Sequence[int]) -> tuple[str, list[int]]:
        if self._lossy and isinstance(prompt, Prompt):
            return respell(self._tokenizer, ids, prompt.source, prompt.keys or ())
        return spell(self._tokenizer, ids)


@dataclass
class UntilClosed:
    """Follows an answer up to where its list closes.

    spell (Callable): Writes tokens as text.
    closing (frozenset[int]): The tokens with a closing bracket.
    ids (list[int]): The answer so far.
    """

    spell: Callable[[Sequence[int]], tuple[str, list[int]]]
    closing: frozenset[int]
    ids: list[int] = field(default_factory=list)

    def allowed(self) -> None:
        return None

    def push(self, token: int) -> bool:
        self.ids.append(token)
        return token in self.closing and find_close(self.spell(self.ids)[0]) is not None


@lru_cache(maxsize=8)
def closing_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Find the tokens with a closing bracket.

    tokenizer (PreTrainedTokenizerBase): The tokenizer.
    RETURNS (frozenset[int]): Their ids.
    """
    vocabulary = tokenizer.get_vocab().items()
    return frozenset(id for token, id in vocabulary if "]" in token or "}" in token)
