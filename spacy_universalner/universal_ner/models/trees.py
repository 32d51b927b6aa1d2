"""Prompts that share their beginnings, laid out as the rows of a batch.

The prompts of one document differ in their last question only. They are laid out as a tree: the
shared beginning is the trunk, each prompt's rest and answer a branch. A tree is one row of a
batch; all its tokens stand side by side in that row, and the attention mask lets a branch see the
trunk and itself but no other branch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from spacy_universalner.universal_ner.models.cache import RoomyCache

# Owners of columns that belong to no branch.
TRUNK, PADDING = -1, -2

# From token ids, positions, what each query sees, the queries whose logits are wanted, and what is
# known, to these logits and what is known then.
Forward: TypeAlias = Callable[
    [Tensor, Tensor, Tensor, Tensor, RoomyCache | None], tuple[Tensor, RoomyCache]
]


class Listener(Protocol):
    """Follows an answer while it is written."""

    def allowed(self) -> Sequence[int] | None:
        """The token ids that may come next; None for all."""
        ...

    def push(self, token: int) -> bool:
        """Take the next token. RETURNS (bool): Whether the answer is complete with it."""
        ...


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


class Batch:
    """The rows of a batch: which branch each column belongs to, and what is cached.

    trees (Sequence[Tree]): One a row.
    run (Forward): Runs the model.
    device (torch.device): Where the model is.
    """

    def __init__(self, trees: Sequence[Tree], run: Forward, device: torch.device) -> None:
        self._forward = run
        self._device = device
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
        logits, self._cache = self._forward(
            torch.tensor(ids, device=self._device),
            new_positions,
            visible,
            torch.tensor(wanted, device=self._device),
            self._cache,
        )
        return logits
