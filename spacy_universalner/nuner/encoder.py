"""The text encoder as a Thinc layer: spaCy documents in, one vector per token out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, Literal, cast

from spacy.tokens import Doc
from thinc.api import Model, torch2xp, xp2torch
from thinc.types import Floats2d

from ..forks import make_forks_safe
from .shim import EncoderShim, Settings


def build_nuner_encoder_v1(
    name: str = "numind/NuNER-v2.0",
    revision: str = "main",
    layers: list[int] = [-1],  # noqa: B006  (confection copies defaults)
    freeze: Literal["none", "all"] | int = "none",
    precision: Literal["auto", "float32", "bfloat16", "float16", "int8"] = "float32",
    window: int = 512,
    stride: int = 64,
    batch_tokens: Literal["auto"] | int = "auto",
) -> Model[list[Doc], list[Floats2d]]:
    """Build the layer `spacy-universalner.NuNEREncoder.v1`: a Hugging Face encoder over tokens.

    A token's vector is the mean over its wordpieces, zeros if it has none, as whitespace does. The
    weights are loaded when the pipeline is initialised or read from disk, not before; a saved
    pipeline holds weights, configuration and tokenizer and never asks for `name` again.

    name (str): "embedded", a local folder or a hub id; see `pretrained.resolve`.
    revision (str): Branch, tag or commit on the hub.
    layers (list[int]): Hidden states whose vectors are concatenated, -1 being the last; NuNER v2.0
        recommends [-1, -7].
    freeze (str | int): "none" trains all weights, "all" none of them; a number keeps the
        embeddings and so many of the lowest layers as they are, see `backbone.freeze_layers`.
    precision (str): "bfloat16" trains under autocast and predicts with rounded weights; "float16"
        is for prediction on a GPU, training it as "bfloat16"; "int8" predicts with dynamically
        quantised linear layers on the CPU and trains in float32; "auto" is "bfloat16" where the
        device computes in it, else "float32". Weights are saved in float32.
    window (int): Most wordpieces of one forward pass, special tokens included; the encoder's own
        limit if that is lower.
    stride (int): Wordpieces that neighbouring windows of a longer text share.
    batch_tokens (str | int): Most wordpieces of one batch, padding included; a longer window is a
        batch of its own. "auto" is 1024 in float32 and int8 on the CPU, where a batch should fit
        the cache, else 4096. Documents are batched by length, in training too.
    RETURNS (Model[list[Doc], list[Floats2d]]): Vectors of shape (n_tokens, width * len(layers)).
    RAISES (ValueError): A setting is out of its range.
    """
    make_forks_safe()
    settings = Settings(
        name, revision, tuple(layers), freeze, precision, window, stride, batch_tokens
    )
    return Model(
        "nuner_encoder",
        forward,
        init=init,
        dims={"nO": None},
        shims=[EncoderShim(settings)],
    )


def forward(
    model: Model[list[Doc], list[Floats2d]], docs: Sequence[Doc], is_train: bool
) -> tuple[list[Floats2d], Callable[[list[Floats2d]], list[Doc]]]:
    shim = cast(EncoderShim, model.shims[0])
    batch = shim.prepare(docs)
    vectors, backprop_torch = shim(batch, is_train)
    splits = list(accumulate(len(doc) for doc in docs))[:-1]

    def backprop(d_vectors: list[Floats2d]) -> list[Doc]:
        backprop_torch(xp2torch(model.ops.xp.concatenate(d_vectors), device=shim.device))
        return []

    return model.ops.xp.split(torch2xp(vectors), splits), backprop


def init(model: Model[list[Doc], list[Floats2d]], **_: Any) -> None:
    shim = cast(EncoderShim, model.shims[0])
    shim.load()
    model.set_dim("nO", shim.width, force=True)
