"""Greedy decoding of many prompts that share their beginnings.

The prompts of one document differ in their last question only. They are laid out as a tree: the
shared beginning is the trunk, each prompt's rest and answer a branch. A tree is one row of a
batch; all its tokens stand side by side in that row, and the attention mask lets a branch see the
trunk and itself but no other branch. So the trunk is computed and kept once, however many types
are asked, and a step of decoding takes the next token of every branch of every row at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Literal, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers.configuration_utils import PretrainedConfig
from transformers.modeling_utils import PreTrainedModel

from spacy_universalner.universal_ner.models.cache import RoomyCache

# Owners of columns that belong to no branch.
TRUNK, PADDING = -1, -2

# How a model takes the attention mask: a bias of shape (rows, 1, queries, columns), which most
# do; zeros and ones of shape (rows, queries, columns), as BERT and its kin do; or only zeros and
# ones of shape (rows, columns), with which branches cannot be kept apart.
MaskForm = Literal["bias", "choice", "columns"]
SHARING_FORMS: tuple[MaskForm, ...] = ("bias", "choice")

COUNTED_FROM_PADDING = frozenset(
    (
        "camembert",
        "data2vec-text",
        "roberta",
        "roberta-prelayernorm",
        "xlm-roberta",
        "xlm-roberta-xl",
    )
)

# Two documents' prompts, of any tokens, with which a model is asked how it takes its mask; and
# how far, relatively, logits may be from those of a plain run. Rounding in bfloat16 stays well
# below, a mask that is not heeded well above.
PROBE = (
    ([5, 11, 17, 23, 29, 31], [5, 11, 17, 23, 37, 41, 43], [5, 11, 17, 23, 47, 53]),
    ([59, 61, 67, 71, 73, 79, 83, 89], [59, 61, 67, 71, 73, 97, 101]),
)
TOLERANCE = 0.1
_MASK_FORMS: WeakKeyDictionary[PreTrainedModel, MaskForm] = WeakKeyDictionary()


class Listener(Protocol):
    """Follows an answer while it is written."""

    def allowed(self) -> Sequence[int] | None:
        """The token ids that may come next; None for all."""
        ...

    def push(self, token: int) -> bool:
        """Take the next token. RETURNS (bool): Whether the answer is complete with it."""
        ...


class AnyAnswer:
    """A listener for free decoding."""

    def allowed(self) -> None:
        return None

    def push(self, token: int) -> bool:
        return False


@dataclass
class Tree:
    """A document's prompts.

    trunk (list[int]): The tokens that all of them start with.
    branches (list[list[int]]): For each prompt, the tokens that follow; at least one.
    """

    trunk: list[int]
    branches: list[list[int]]

    @classmethod
    def plant(cls, prompts: Sequence[list[int]], *, share: bool = True) -> Tree:
        """Find the longest common beginning of tokenised prompts.

        prompts (Sequence[list[int]]): Token ids, at least one each.
        share (bool): False to leave the trunk empty.
        RETURNS (Tree): The prompts as a tree.
        """
        # All agree as far as the first and the last in order do. Each branch needs a token of its
        # own, which the first token of its answer is read off.
        first, last = min(prompts), max(prompts)
        agree = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
        shared = min(sum(1 for _ in agree), min(map(len, prompts)) - 1) if share else 0
        return cls(list(prompts[0][:shared]), [prompt[shared:] for prompt in prompts])

    @property
    def size(self) -> int:
        """RETURNS (int): The number of tokens."""
        return len(self.trunk) + sum(map(len, self.branches))

    @property
    def length(self) -> int:
        """RETURNS (int): The tokens of the longest prompt."""
        return len(self.trunk) + max(map(len, self.branches))


@dataclass
class Written:
    """A generated answer.

    ids (list[int]): Its tokens, without the end token.
    logprobs (list[float]): Natural log-probability of each.
    complete (bool): False if it was cut off at the token limit.
    """

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    complete: bool = False


@dataclass
class Branch:
    """A branch while it grows.

    row (int): Its tree's row in the batch.
    owner (int): Its number in the batch; marks its columns.
    position (int): Position of its next token.
    """

    row: int
    owner: int
    position: int
    listener: Listener
    written: Written
    next_token: int = -1


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
        batch = Batch(self, trees, self.mask_form if self.can_share(length) else "columns")
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
        mask_form: MaskForm,
    ) -> tuple[Tensor, Any]:
        """Run the model.

        ids (Tensor): Shape (rows, queries).
        positions (Tensor): Of the same shape.
        visible (Tensor): What each query sees; bool, shape (rows, queries, columns).
        wanted (Tensor): Indices into the rows' queries laid end to end.
        cache (RoomyCache | None): What is known.
        mask_form (MaskForm): How to hand over what is visible.
        RETURNS (tuple[Tensor, Any]): Logits of shape (wanted, vocabulary), and the cache.
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
        if output.past_key_values is None:
            raise ValueError(
                f"{type(self.model).__name__} keeps no keys and values of what it has read, so it "
                "is no causal decoder. A BERT-like one needs is_decoder = true in its config.json."
            )
        if cache is None:
            cache = RoomyCache(output.past_key_values)
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
            batch = Batch(self, trees, form)
            try:
                batch.prefill(trees)
                found = batch.step(branches).float()
            except (IndexError, RuntimeError, TypeError, ValueError):
                continue
            if torch.dist(found, expected) <= TOLERANCE * expected.norm():
                return form
        return "columns"


class Batch:
    """The rows of a batch: which branch each column belongs to, and what is cached.

    decoder (Decoder): Runs the model.
    trees (Sequence[Tree]): One a row.
    mask_form (MaskForm): How the model takes the attention mask.
    """

    def __init__(self, decoder: Decoder, trees: Sequence[Tree], mask_form: MaskForm) -> None:
        self._decoder = decoder
        self._mask_form = mask_form
        self._device = decoder.model.device
        self._cache: RoomyCache | None = None
        self._owners = torch.empty((len(trees), 0), dtype=torch.long, device=self._device)
        self._positions = self._owners.clone()

    def prefill(self, trees: Sequence[Tree]) -> Tensor:
        """Run trunks and branches. RETURNS (Tensor): The logits after each branch."""
        width = max(tree.size for tree in trees)
        ids, owners, positions, wanted = [], [], [], []
        owner = 0
        for row, tree in enumerate(trees):
            room = width - tree.size
            ids.append([0] * room + tree.trunk)
            owners.append([PADDING] * room + [TRUNK] * len(tree.trunk))
            positions.append([0] * room + list(range(len(tree.trunk))))
            for rest in tree.branches:
                ids[-1] += rest
                owners[-1] += [owner] * len(rest)
                positions[-1] += range(len(tree.trunk), len(tree.trunk) + len(rest))
                wanted.append(row * width + len(ids[-1]) - 1)
                owner += 1
        return self._run(ids, owners, positions, wanted)

    def step(self, branches: Sequence[Branch]) -> Tensor:
        """Run the branches' next tokens. RETURNS (Tensor): The logits after each."""
        rows: list[list[Branch]] = [[] for _ in range(self._owners.shape[0])]
        for branch in branches:
            rows[branch.row].append(branch)
        width = max(map(len, rows))
        ids, owners, positions, place = [], [], [], {}
        for row, members in enumerate(rows):
            room = width - len(members)
            ids.append([branch.next_token for branch in members] + [0] * room)
            owners.append([branch.owner for branch in members] + [PADDING] * room)
            positions.append([branch.position for branch in members] + [0] * room)
            for slot, branch in enumerate(members):
                place[branch.owner] = row * width + slot
                branch.position += 1
        return self._run(ids, owners, positions, [place[branch.owner] for branch in branches])

    def compact(self, branches: Sequence[Branch]) -> None:
        """Let finished branches and trees leave, once half of the cache is theirs.

        branches (Sequence[Branch]): Those that still grow; their `row` is updated.
        """
        rows = sorted({branch.row for branch in branches})
        kept = torch.tensor(rows, device=self._device)
        owners = self._owners[kept]
        alive = torch.tensor([TRUNK, *(branch.owner for branch in branches)], device=self._device)
        live = torch.isin(owners, alive)
        width = int(live.sum(1).max())
        if 2 * len(rows) * width > self._owners.numel():
            return
        # A stable sort by liveness puts each row's dead columns first, as padding on the left.
        columns = live.long().argsort(dim=1, stable=True)[:, -width:]
        assert self._cache is not None
        self._cache.gather(kept, columns)
        dead = ~live.gather(1, columns)
        self._owners = owners.gather(1, columns).masked_fill_(dead, PADDING)
        self._positions = self._positions[kept].gather(1, columns).masked_fill_(dead, 0)
        place = {row: i for i, row in enumerate(rows)}
        for branch in branches:
            branch.row = place[branch.row]

    def _run(
        self,
        ids: list[list[int]],
        owners: list[list[int]],
        positions: list[list[int]],
        wanted: list[int],
    ) -> Tensor:
        new_owners = torch.tensor(owners, device=self._device)
        new_positions = torch.tensor(positions, device=self._device)
        self._owners = torch.cat((self._owners, new_owners), 1)
        self._positions = torch.cat((self._positions, new_positions), 1)
        seen, known = self._owners[:, None], self._positions[:, None]
        visible = (seen == new_owners[..., None]) | (
            (seen == TRUNK) & (new_owners != PADDING)[..., None]
        )
        visible &= known <= new_positions[..., None]
        logits, self._cache = self._decoder.forward(
            torch.tensor(ids, device=self._device),
            new_positions,
            visible,
            torch.tensor(wanted, device=self._device),
            self._cache,
            self._mask_form,
        )
        return logits


def count_positions(config: PretrainedConfig) -> int | None:
    """Find the most tokens that a model can take.

    config (PretrainedConfig): The model's.
    RETURNS (int | None): Tokens of prompt and answer; None for no limit.
    """
    config = config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        length = getattr(config, name, None)
        if length is not None:
            return int(length) - first_position(config)
    return None


def first_position(config: PretrainedConfig) -> int:
    """Find the position of a text's first token.

    config (PretrainedConfig): The model's.
    RETURNS (int): 0, but RoBERTa and its kin count on from the padding token's id.
    """
    if config.model_type in COUNTED_FROM_PADDING and config.pad_token_id is not None:
        return int(config.pad_token_id) + 1
    return 0


@contextmanager
def keep_positions(model: PreTrainedModel, wanted: Tensor) -> Iterator[None]:
    """Let a model compute logits at some positions only.

    The head over the vocabulary can cost as much as all layers, and is needed at the end of each
    branch only. Not every model has an argument for it, so the hidden states are cut on their
    way from the layers to the head.

    model (PreTrainedModel): A causal language model.
    wanted (Tensor): Indices into the rows' positions laid end to end.
    """

    def cut(module: Any, args: Any, output: Any) -> Any:
        hidden = output.last_hidden_state
        output.last_hidden_state = hidden.flatten(0, 1)[wanted.to(hidden.device)][None]
        return output

    handle = model.base_model.register_forward_hook(cut)
    try:
        yield
    finally:
        handle.remove()
