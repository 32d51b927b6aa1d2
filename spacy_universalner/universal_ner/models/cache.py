"""A key-value cache with room to grow, for every model that keeps keys and values.

Models written for cache objects call `update`; older ones concatenate tensors themselves. Both
would copy all of what is known at every step. Here new keys and values are written into room
that is already there, whichever way the model does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

GROWTH = 1.5


class RoomyCache(Cache):
    """Keys and values of a batch, each of shape (rows, heads, columns, size).

    columns (int): How many columns are known. A forward pass writes behind them; they count as
        known once `advance` has been called.
    """

    def __init__(self, states: Iterable[tuple[Tensor, Tensor]] = ()) -> None:
        super().__init__()
        self.columns = 0
        self._layers: list[list[Tensor]] = [list(pair) for pair in states]
        if self._layers:
            self.columns = self._layers[0][0].shape[2]

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        cache_kwargs: dict[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Write a layer's new keys and values; what models with cache objects call."""
        if layer_idx == len(self._layers):
            self._layers.append([key_states, value_states])
            return key_states, value_states
        return self.append(layer_idx, 0, key_states), self.append(layer_idx, 1, value_states)

    def append(self, layer: int, part: int, new: Tensor) -> Tensor:
        """Write new columns behind the known ones.

        layer (int): The layer.
        part (int): 0 for keys, 1 for values.
        new (Tensor): Shape (rows, heads, new columns, size).
        RETURNS (Tensor): A view of the known and the new columns.
        """
        room, needed = self._layers[layer][part], self.columns + new.shape[2]
        if room.shape[2] < needed:
            rows, heads, _, size = room.shape
            grown = room.new_empty(rows, heads, int(needed * GROWTH), size)
            grown[:, :, : self.columns] = room[:, :, : self.columns]
            self._layers[layer][part] = room = grown
        room[:, :, self.columns : needed] = new
        return room[:, :, :needed]

    def advance(self, columns: int) -> None:
        """Take the columns that a forward pass has written for known."""
        self.columns += columns

    def gather(self, rows: Tensor, columns: Tensor) -> None:
        """Keep some rows and columns, and give the memory of the others back.

        rows (Tensor): Shape (kept rows,).
        columns (Tensor): Shape (kept rows, kept columns): for each kept row, its columns.
        """
        for layer in self._layers:
            for part, room in enumerate(layer):
                at = rows.to(room.device)[:, None], columns.to(room.device)
                # Advanced indices around a slice come first: (rows, columns, heads, size).
                layer[part] = room[at[0], :, at[1]].transpose(1, 2).contiguous()
        self.columns = columns.shape[1]

    def get_seq_length(self, layer_idx: int | None = 0) -> int:
        return self.columns

    def get_max_cache_shape(self) -> int | None:
        return None

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, layer_idx: int) -> tuple[Tensor, Tensor]:
        """A layer's keys and values as tensors to concatenate to, as older models do."""
        keys, values = (
            Appendable.wrap(
                self._layers[layer_idx][part][:, :, : self.columns], self, layer_idx, part
            )
            for part in (0, 1)
        )
        return keys, values

    def __iter__(self) -> Any:
        return (self[layer] for layer in range(len(self)))


class Appendable(Tensor):
    """A view of known columns; to concatenate to it is to write into the cache's room."""

    _append: Callable[[Tensor], Tensor]

    @staticmethod
    def wrap(known: Tensor, cache: RoomyCache, layer: int, part: int) -> Appendable:
        tensor = known.as_subclass(Appendable)
        tensor._append = lambda new: cache.append(layer, part, new)
        return tensor

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.cat and isinstance(args[0][0], Appendable) and len(args[0]) == 2:
            known, new = args[0]
            return known._append(new)
        return super().__torch_function__(func, types, args, kwargs or {})
