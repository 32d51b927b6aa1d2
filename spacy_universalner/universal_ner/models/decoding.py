"""Greedy decoding of many prompts that share their beginnings.

The prompts of one document are a tree (see `trees`): what they share is computed and kept once,
however many types are asked, and a step of decoding takes the next token of every branch of every
row at once.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel

from spacy_universalner.universal_ner.models.cache import RoomyCache
from spacy_universalner.universal_ner.models.positions import first_position
from spacy_universalner.universal_ner.models.trees import Batch, Branch, Listener, Tree, Written

# How a model takes the attention mask: a bias of shape (rows, 1, queries, columns), which most
# do; zeros and ones of shape (rows, queries, columns), as BERT and its kin do; or only zeros and
# ones of shape (rows, columns), with which branches cannot be kept apart.
MaskForm = Literal["bias", "choice", "columns"]
SHARING_FORMS: tuple[MaskForm, ...] = ("bias", "choice")

# Two documents' prompts, of any tokens, with which a model is asked how it takes its mask; and
# how far, relatively, logits may be from those of a plain run. Rounding in bfloat16 stays well
# below, a mask that is not heeded well above.
PROBE = (
    ([5, 11, 17, 23, 29, 31], [5, 11, 17, 23, 37, 41, 43], [5, 11, 17, 23, 47, 53]),
    ([59, 61, 67, 71, 73, 79, 83, 89], [59, 61, 67, 71, 73, 97, 101]),
)
TOLERANCE = 0.1
_MASK_FORMS: WeakKeyDictionary[PreTrainedModel, MaskForm] = WeakKeyDictionary()


class AnyAnswer:
    """A listener for free decoding."""

    def allowed(self) -> None:
        return None

    def push(self, token: int) -> bool:
        return False


class Decoder:
    """Answers trees of prompts by greedy decoding.

    model (PreTrainedModel): A causal language model.
    end_ids (Iterable[int]): The tokens that end an answer.
    max_new_tokens (int): The longest answer.
    """

    def __init__(
        self, model: PreTrainedModel, *, end_ids: Iterable[int], max_new_tokens: int
    ) -> None:
        self.model = model
        self.end_ids = frozenset(end_ids)
        self.max_new_tokens = max_new_tokens
        parameters = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in parameters
        self._first_position = first_position(model.config)
        if model not in _MASK_FORMS:
            _MASK_FORMS[model] = self._find_mask_form()
        self.mask_form = _MASK_FORMS[model]

    def can_share(self, length: int) -> bool:
        """Whether prompts may share a tree.

        length (int): The longest of them with its answer, in tokens.
        RETURNS (bool): False for a model that cannot keep branches apart, and beyond a sliding
            attention window, which a mask of our own would not heed.
        """
        config = self.model.config.get_text_config()
        window = getattr(config, "sliding_window", None)
        if not getattr(config, "use_sliding_window", True):
            window = None
        # GPT-Neo's local layers count columns, and in a tree some are other branches'.
        if config.model_type == "gpt_neo":
            return False
        return self.mask_form != "columns" and (window is None or length <= window)

    @torch.inference_mode()
    def decode(
        self, trees: Sequence[Tree], listeners: Sequence[Sequence[Listener]]
    ) -> list[list[Written]]:
        """Write an answer to every prompt.

        trees (Sequence[Tree]): The batch. If one may not share (see `can_share`), each has one
            branch and no trunk.
        listeners (Sequence[Sequence[Listener]]): For each branch of each tree, its listener.
        RETURNS (list[list[Written]]): For each branch of each tree, its answer.
        """
        length = max(tree.length for tree in trees) + self.max_new_tokens
        form = self.mask_form if self.can_share(length) else "columns"
        batch = Batch(trees, partial(self.forward, mask_form=form), self.model.device)
        branches = [
            Branch(row, 0, len(tree.trunk) + len(rest), listener, Written())
            for row, tree in enumerate(trees)
            for rest, listener in zip(tree.branches, listeners[row], strict=True)
        ]
        for owner, branch in enumerate(branches):
            branch.owner = owner
        growing = self._grow(branches, batch.prefill(trees))
        while growing:
            batch.compact(growing)
            growing = self._grow(growing, batch.step(growing))
        answers: list[list[Written]] = [[] for _ in trees]
        rows = (row for row, tree in enumerate(trees) for _ in tree.branches)
        for row, branch in zip(rows, branches, strict=True):
            answers[row].append(branch.written)
        return answers

    def _grow(self, branches: list[Branch], logits: Tensor) -> list[Branch]:
        """Add the best token to each branch. RETURNS (list[Branch]): Those not yet finished."""
        scores = logits.float()
        total = scores.logsumexp(-1)
        for i, branch in enumerate(branches):
            allowed = branch.listener.allowed()
            if allowed is not None:
                keep = torch.tensor(allowed, device=scores.device)
                kept = scores[i, keep]
                scores[i].fill_(-torch.inf)
                scores[i, keep] = kept
        best = scores.max(-1)
        tokens = best.indices.tolist()
        logprobs = (best.values - total).tolist()
        growing = []
        for branch, token, logprob in zip(branches, tokens, logprobs, strict=True):
            if token in self.end_ids:
                branch.written.complete = True
                continue
            branch.written.ids.append(token)
            branch.written.logprobs.append(logprob)
            if branch.listener.push(token):
                branch.written.complete = True
            elif len(branch.written.ids) < self.max_new_tokens:
                branch.next_token = token
                growing.append(branch)
        return growing

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        visible: Tensor,
        wanted: Tensor,
        cache: RoomyCache | None,
        *,
        mask_form: MaskForm,
    ) -> tuple[Tensor, RoomyCache]:
        """Run the model.

        ids (Tensor): Shape (rows, queries).
        positions (Tensor): Of the same shape.
        visible (Tensor): What each query sees; bool, shape (rows, queries, columns).
        wanted (Tensor): Indices into the rows' queries laid end to end.
        cache (RoomyCache | None): What is known.
        mask_form (MaskForm): How to hand over what is visible.
        RETURNS (tuple[Tensor, RoomyCache]): Logits of shape (wanted, vocabulary), and the cache.
        """
        if mask_form == "bias":
            dtype = self.model.dtype
            mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
            mask = mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]
        elif mask_form == "choice":
            mask = visible.to(torch.long)
        else:
            mask = visible[:, -1].to(torch.long)
        if cache is None and self.model._supports_cache_class:
            cache = RoomyCache()
        settings = {}
        if self._takes_positions:
            settings["position_ids"] = positions + self._first_position
        with keep_positions(self.model, wanted):
            output = self.model(
                input_ids=ids,
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
                return_dict=True,
                **settings,
            )
        if getattr(output, "past_key_values", None) is None:
            raise ValueError(
                f"{type(self.model).__name__} keeps no keys and values of what it has read, so it "
                "is no causal decoder. A BERT-like one needs is_decoder = true in its config.json."
            )
        if cache is None:
            try:
                cache = RoomyCache(output.past_key_values)
            except (IndexError, TypeError) as error:
                raise ValueError(
                    f"{type(self.model).__name__} keeps what it has read in a form of its own, and "
                    "not as keys and values of each layer. Serve it with a server such as vLLM, "
                    "and ask it by spacy-universalner.OpenAI.v1."
                ) from error
        else:
            cache.advance(ids.shape[1])
        return output.logits[0], cache

    @torch.inference_mode()
    def _find_mask_form(self) -> MaskForm:
        """Ask the model about two small trees in each form, and compare with asking it plainly."""
        size = self.model.config.get_text_config().vocab_size
        prompts = [[[token % size for token in ids] for ids in prompts] for prompts in PROBE]
        plain = [
            self.model(input_ids=torch.tensor([ids], device=self.model.device)).logits[0, -1]
            for document in prompts
            for ids in document
        ]
        expected = torch.stack(plain).float()
        # The last token of each prompt is fed in a second step, so that the cache is probed too.
        trees = [Tree.plant([ids[:-1] for ids in document]) for document in prompts]
        for form in SHARING_FORMS:
            asked = [(row, ids) for row, document in enumerate(prompts) for ids in document]
            branches = [
                Branch(row, owner, len(ids) - 1, AnyAnswer(), Written(), ids[-1])
                for owner, (row, ids) in enumerate(asked)
            ]
            batch = Batch(trees, partial(self.forward, mask_form=form), self.model.device)
            try:
                batch.prefill(trees)
                found = batch.step(branches).float()
            except (IndexError, RuntimeError, TypeError, ValueError):
                continue
            if torch.dist(found, expected) <= TOLERANCE * expected.norm():
                return form
        return "columns"


@contextmanager
def keep_positions(model: PreTrainedModel, wanted: Tensor) -> Iterator[None]:
    """Let a model compute logits at some positions only.

    The head over the vocabulary can cost as much as all layers, and is needed at the end of each
    branch only. Not every model has an argument for it, so the hidden states are cut on their
    way into the head.

    model (PreTrainedModel): A causal language model. Other threads may run it meanwhile.
    wanted (Tensor): Indices into the rows' positions laid end to end.
    """
    owner = threading.get_ident()

    def cut(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if threading.get_ident() != owner:
            return None
        hidden = args[0].flatten(0, 1)
        return (hidden[wanted.to(hidden.device)][None], *args[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(cut)
    try:
        yield
    finally:
        handle.remove()
