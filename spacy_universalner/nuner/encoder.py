"""The text encoder as a Thinc layer: spaCy documents in, one vector per token out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast

import numpy as np
import srsly
import torch
import torch.nn.functional as F
from spacy.tokens import Doc
from thinc.api import Model, Optimizer, PyTorchShim, get_torch_default_device, torch2xp, xp2torch
from thinc.types import Floats2d
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging

from spacy_universalner import pretrained
from spacy_universalner.nuner.windows import (
    Pieces,
    Window,
    batch_windows,
    plan_windows,
    tokenize,
)

Freeze = Literal["none", "all"] | int
Precision = Literal["float32", "bfloat16", "float16", "int8"]


def build_nuner_encoder_v1(
    name: str = "numind/NuNER-v2.0",
    revision: str = "main",
    layers: list[int] = [-1],  # noqa: B006  (confection copies defaults)
    freeze: Literal["none", "all"] | int = "none",
    precision: Literal["float32", "bfloat16", "float16", "int8"] = "float32",
    window: int = 512,
    stride: int = 64,
    batch_tokens: int = 4096,
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
        embeddings and so many of the lowest layers as they are.
    precision (str): "bfloat16" trains under autocast and predicts with rounded weights; "float16"
        is for prediction on a GPU, training it as "bfloat16"; "int8" predicts with dynamically
        quantised linear layers on the CPU and trains in float32. Weights are saved in float32.
    window (int): Most wordpieces of one forward pass, special tokens included; the encoder's own
        limit if that is lower.
    stride (int): Wordpieces that neighbouring windows of a longer text share.
    batch_tokens (int): Most wordpieces of one batch, padding included. Documents are batched by
        length, in training too.
    RETURNS (Model[list[Doc], list[Floats2d]]): Vectors of shape (n_tokens, width * len(layers)).
    RAISES (ValueError): A setting is out of its range.
    """
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


@dataclass(frozen=True)
class Settings:
    """The arguments of `build_nuner_encoder_v1`. They come from the config, not from saved weights,
    so that a trained pipeline can be loaded with another precision or window."""

    name: str
    revision: str
    layers: tuple[int, ...]
    freeze: Freeze
    precision: Precision
    window: int
    stride: int
    batch_tokens: int

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("layers is empty, expected hidden states such as [-1] or [-1, -7].")
        if not 0 <= self.stride < self.window:
            raise ValueError(
                f"stride = {self.stride} with window = {self.window}: neighbouring windows share "
                "`stride` wordpieces, so it must be at least 0 and less than `window`."
            )
        if isinstance(self.freeze, int) and self.freeze < 0:
            raise ValueError(
                f"freeze = {self.freeze}: expected 'none', 'all' or a number of bottom layers."
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


@dataclass(frozen=True)
class Batch:
    """What goes through the encoder for a list of documents.

    inputs (list[tuple[Tensor, Tensor]]): Ids and attention mask of each batch of windows, shape
        (n_windows, length) each.
    rows (Tensor): Which rows of the flattened hidden states of all batches belong to the tokens,
        one token after the other.
    offsets (Tensor): For each token where in `rows` its own begin, shape (n_tokens,).
    """

    inputs: list[tuple[Tensor, Tensor]]
    rows: Tensor
    offsets: Tensor


class EncoderShim(PyTorchShim):
    """A Hugging Face encoder with its tokenizer inside a Thinc model.

    Beyond `PyTorchShim`: weights come late, are saved as a Hugging Face folder, predict in another
    precision than they are trained in, and are updated by PyTorch's fused AdamW, which takes the
    settings of the Thinc optimiser but spares a Python call for each of some hundred tensors.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(None)
        self.settings = settings
        self.tokenizer: PreTrainedTokenizerFast | None = None
        self._predictor: nn.Module | None = None
        self._adamw: tuple[Optimizer, torch.optim.AdamW] | None = None

    @property
    def encoder(self) -> PreTrainedModel:
        if self._model is None:
            raise ValueError(
                f"The encoder '{self.settings.name}' has no weights yet: initialise the pipeline "
                "with `nlp.initialize()` or `spacy train`, or load a saved one."
            )
        return self._model

    @property
    def device(self) -> torch.device:
        return self.encoder.device

    @property
    def width(self) -> int:
        return self.encoder.config.hidden_size * len(self.settings.layers)

    def load(self) -> None:
        """Load the pretrained weights and the tokenizer that the settings name."""
        self._adopt(*load_encoder(self.settings.name, self.settings.revision))

    def _adopt(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        depth = model.config.num_hidden_layers
        for layer in self.settings.layers:
            if not -depth - 1 <= layer <= depth:
                raise ValueError(
                    f"layers = {list(self.settings.layers)}: the encoder has the hidden states "
                    f"{-depth - 1} to {depth}, embeddings included."
                )
        device = get_torch_default_device()
        if self.settings.precision == "int8" and device.type != "cpu":
            raise ValueError("precision = 'int8' runs on the CPU only; use 'bfloat16' on a GPU.")
        freeze_layers(model, self.settings.freeze)
        self._model = model.to(device)
        self.tokenizer = tokenizer
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        # The text of a special token is just text.
        backend.encode_special_tokens = True
        self._frame = special_tokens(backend)
        limit = min(self.settings.window, max_length(model))
        self._window = limit - sum(map(len, self._frame))
        self._stride = min(self.settings.stride, self._window - 1)
        self._predictor = None
        self._adamw = None

    def prepare(self, docs: Sequence[Doc]) -> Batch:
        """Tokenise documents and lay their windows out in batches."""
        assert self.encoder is not None and self.tokenizer is not None
        pieces = tokenize(docs, self.tokenizer.backend_tokenizer)
        windows = [
            window
            for i, doc in enumerate(pieces)
            for window in plan_windows(len(doc.ids), self._window, self._stride, doc.sentences, i)
        ]
        return collate(
            pieces,
            list(batch_windows(windows, self.settings.batch_tokens)),
            self._frame,
            self.encoder.config.pad_token_id or 0,
            self.device,
        )

    def __call__(self, batch: Batch, is_train: bool) -> tuple[Tensor, Callable[[Tensor], None]]:
        if is_train and self.settings.freeze != "all":
            return self.begin_update(batch)
        return self.predict(batch), lambda d_vectors: None

    def predict(self, batch: Batch) -> Tensor:
        if self._predictor is None:
            self._predictor = cast_for_prediction(self.encoder, self.settings.precision)
        with torch.inference_mode():
            return token_vectors(self._predictor, batch, self.settings.layers)

    def begin_update(self, batch: Batch) -> tuple[Tensor, Callable[[Tensor], None]]:
        self._predictor = None
        self.encoder.train()
        half = self.settings.precision in ("bfloat16", "float16")
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half):
            vectors = token_vectors(self.encoder, batch, self.settings.layers)

        def backprop(d_vectors: Tensor) -> None:
            vectors.backward(d_vectors)

        return vectors.detach(), backprop

    def finish_update(self, optimizer: Optimizer) -> None:
        if self.settings.freeze == "all":
            return
        if optimizer.use_radam or not optimizer.b1:
            super().finish_update(optimizer)
            return
        if self._adamw is None or self._adamw[0] is not optimizer:
            self._adamw = (optimizer, make_adamw(self.encoder))
        adamw = self._adamw[1]
        parameters = [p for group in adamw.param_groups for p in group["params"]]
        if optimizer.grad_clip:
            nn.utils.clip_grad_norm_(parameters, optimizer.grad_clip)
        for group in adamw.param_groups:
            group["lr"] = optimizer.learn_rate
            group["betas"] = (optimizer.b1, optimizer.b2)
            group["eps"] = optimizer.eps
            group["weight_decay"] = optimizer.L2 if group["decay"] else 0.0
        adamw.step()
        adamw.zero_grad()

    def to_bytes(self) -> bytes:
        """The encoder's Hugging Face folder, file by file; empty before the weights are loaded."""
        files = {}
        if self._model is not None:
            assert self.tokenizer is not None
            with TemporaryDirectory() as folder:
                self.encoder.save_pretrained(folder)
                self.tokenizer.save_pretrained(folder)
                files = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
        return srsly.msgpack_dumps(files)

    def from_bytes(self, bytes_data: bytes) -> EncoderShim:
        files = srsly.msgpack_loads(bytes_data)
        if files:
            with TemporaryDirectory() as folder:
                for name, content in files.items():
                    (Path(folder) / name).write_bytes(content)
                self._adopt(*load_encoder(folder))
        return self


def load_encoder(
    name: str, revision: str = "main"
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load an encoder without task head, in float32, and its tokenizer.

    name (str): "embedded", a local folder or a hub id.
    revision (str): Branch, tag or commit on the hub.
    RETURNS (tuple[PreTrainedModel, PreTrainedTokenizerFast]): The model, in evaluation mode.
    RAISES (OSError): The weights are not available.
    RAISES (ValueError): The tokenizer has no fast version, which gives the character offsets.
    """
    path = pretrained.resolve(name)
    settings = {"revision": revision, "torch_dtype": torch.float32}
    verbosity = logging.get_verbosity()
    # Heads that are left out would be reported weight by weight.
    logging.set_verbosity_error()
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)
        try:
            # Most encoders come with a pooler that nothing here reads.
            model = AutoModel.from_pretrained(path, add_pooling_layer=False, **settings)
        except TypeError:
            model = AutoModel.from_pretrained(path, **settings)
    except OSError as error:
        raise pretrained.unavailable(name, "the encoder of `nuner`", error) from error
    finally:
        logging.set_verbosity(verbosity)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(
            f"The tokenizer of '{name}' is a {type(tokenizer).__name__} without a fast version, "
            "which is needed for character offsets. Convert it to a tokenizer.json first."
        )
    return model, tokenizer


def freeze_layers(model: PreTrainedModel, freeze: Freeze) -> None:
    """Keep the lower part of an encoder from being trained.

    model (PreTrainedModel): Changed in place.
    freeze (str | int): "none", "all", or the number of bottom layers that are frozen together with
        the embeddings (the paper's pre-training freezes 6 of 12, section 3.3).
    RAISES (ValueError): More layers than the encoder has.
    """
    model.requires_grad_(freeze == "none")
    if isinstance(freeze, str):
        return
    layers = transformer_layers(model)
    if freeze > len(layers):
        raise ValueError(f"freeze = {freeze}, but the encoder has {len(layers)} layers.")
    for layer in layers[freeze:]:
        layer.requires_grad_(True)


def transformer_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The stack of layers of an encoder, whatever its class calls it.

    RAISES (ValueError): There is no such stack.
    """
    depth = model.config.num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise ValueError(f"{type(model).__name__} has no list of {depth} layers to freeze.")


def max_length(model: PreTrainedModel) -> int:
    """Most wordpieces that an encoder takes, special tokens included."""
    embeddings = getattr(model, "embeddings", None)
    positions = getattr(embeddings, "position_embeddings", None)
    if isinstance(positions, nn.Embedding):
        # RoBERTa counts positions from the one after its padding index.
        unused = 0 if positions.padding_idx is None else positions.padding_idx + 1
        return positions.num_embeddings - unused
    return int(model.config.max_position_embeddings)


def special_tokens(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The special tokens that a tokenizer puts before and after a text.

    RETURNS (tuple[list[int], list[int]]): Their ids, such as those of [CLS] and [SEP].
    """
    encoding = tokenizer.encode("a", add_special_tokens=True)
    mask = encoding.special_tokens_mask
    first, last = mask.index(0), len(mask) - mask[::-1].index(0)
    return encoding.ids[:first], encoding.ids[last:]


def collate(
    pieces: Sequence[Pieces],
    batches: Sequence[Sequence[Window]],
    frame: tuple[list[int], list[int]],
    pad: int,
    device: torch.device,
) -> Batch:
    """Lay windows out as tensors, and say in which rows of the result each token's vectors are.

    pieces (Sequence[Pieces]): The documents' wordpieces.
    batches (Sequence[Sequence[Window]]): Their windows, batched.
    frame (tuple[list[int], list[int]]): Special tokens before and after each window.
    pad (int): Id of the padding.
    device (torch.device): Where the tensors go.
    RETURNS (Batch): The encoder's input.
    """
    prefix, suffix = frame
    piece_starts = np.cumsum([0, *(len(doc.ids) for doc in pieces)])
    piece_rows = np.zeros(piece_starts[-1], dtype=np.int64)
    inputs = []
    n_rows = 0
    for batch in batches:
        length = max(map(len, batch)) + len(prefix) + len(suffix)
        ids = np.full((len(batch), length), pad, dtype=np.int64)
        mask = np.zeros((len(batch), length), dtype=np.int64)
        for i, window in enumerate(batch):
            row = [*prefix, *pieces[window.doc].ids[window.start : window.end], *suffix]
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
            base = piece_starts[window.doc]
            core = np.arange(window.core_start, window.core_end)
            piece_rows[base + core] = n_rows + i * length + len(prefix) + core - window.start
        inputs.append((torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)))
        n_rows += ids.size
    counts = np.concatenate([doc.last - doc.first for doc in pieces])
    firsts = np.concatenate(
        [doc.first + base for doc, base in zip(pieces, piece_starts, strict=False)]
    )
    offsets = np.cumsum(counts) - counts
    spread = np.arange(counts.sum()) + np.repeat(firsts - offsets, counts)
    return Batch(
        inputs,
        torch.from_numpy(piece_rows[spread]).to(device),
        torch.from_numpy(offsets).to(device),
    )


def token_vectors(model: nn.Module, batch: Batch, layers: Sequence[int]) -> Tensor:
    """Run the encoder and average each token's wordpieces.

    RETURNS (Tensor): Float32, shape (n_tokens, width * len(layers)).
    """
    hidden = []
    for ids, mask in batch.inputs:
        output = model(
            input_ids=ids, attention_mask=mask, output_hidden_states=any(i != -1 for i in layers)
        )
        states = [output.last_hidden_state if i == -1 else output.hidden_states[i] for i in layers]
        hidden.append(
            torch.cat(states, dim=-1).flatten(0, 1) if len(states) > 1 else states[0].flatten(0, 1)
        )
    return F.embedding_bag(batch.rows, torch.cat(hidden).float(), batch.offsets, mode="mean")


def cast_for_prediction(model: PreTrainedModel, precision: Precision) -> nn.Module:
    """The encoder in the precision it predicts in: itself for float32, else a copy."""
    model.eval()
    if precision == "float32":
        return model
    if precision == "int8":
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    return copy.deepcopy(model).to(getattr(torch, precision))


def make_adamw(model: nn.Module) -> torch.optim.AdamW:
    """Fused AdamW over the trained weights; biases and normalisation weights do not decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim > 1], "decay": True},
            {"params": [p for p in trained if p.ndim <= 1], "decay": False},
        ],
        fused=True,
    )
