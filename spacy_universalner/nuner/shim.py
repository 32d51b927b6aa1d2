"""A Hugging Face encoder inside a Thinc model: precision, storage and updates of its weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import srsly
import torch
import torch.nn.functional as F
from spacy.tokens import Doc
from thinc.api import Optimizer, PyTorchShim, get_torch_default_device, torch2xp, xp2torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_fast import PreTrainedTokenizerFast

from ..precision import choose_precision
from .backbone import Freeze, freeze_layers, load_encoder, max_length, special_tokens
from .quantization import quantize
from .windows import Batch, batch_windows, collate, plan_windows, tokenize

Precision = Literal["auto", "float32", "bfloat16", "float16", "int8"]

# Wordpieces of a batch under "auto". What a layer computes on should stay in a CPU core's cache;
# in half precision it is smaller, and each product has its weights arranged anew.
CACHED_BATCH = 1024
LARGE_BATCH = 4096


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
    batch_tokens: int | Literal["auto"]

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("layers is empty, expected hidden states such as [-1] or [-1, -7].")
        if not 0 <= self.stride < self.window:
            raise ValueError(
                f"stride = {self.stride} with window = {self.window}: neighbouring windows share "
                "`stride` wordpieces, so it must be at least 0 and less than `window`."
            )
        if self.batch_tokens != "auto" and self.batch_tokens < 1:
            raise ValueError(
                f"batch_tokens = {self.batch_tokens}: expected 'auto' or at least 1 wordpiece."
            )
        if isinstance(self.freeze, int) and self.freeze < 0:
            raise ValueError(
                f"freeze = {self.freeze}: expected 'none', 'all' or a number of bottom layers."
            )


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
        # Special tokens around a window, and what these leave of the settings' window and stride.
        self._frame: tuple[list[int], list[int]] = ([], [])
        self._window, self._stride = settings.window, settings.stride
        self._precision: str = settings.precision
        self._batch_tokens = LARGE_BATCH
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

    @property
    def is_trained(self) -> bool:
        """Whether any weight is not frozen."""
        return any(parameter.requires_grad for parameter in self.encoder.parameters())

    def load(self) -> None:
        """Load the pretrained weights and the tokenizer that the settings name."""
        self._adopt(*load_encoder(self.settings.name, self.settings.revision))

    def to_device(self, device_type: str, device_id: int) -> None:
        """Move the weights, if there are any, and settle the precision for where they are.

        device_type (str): "gpu", or as PyTorch calls it.
        device_id (int): Which GPU.
        RAISES (ValueError): The device does not predict in the settings' precision.
        """
        if self._model is not None:
            gpu = device_type == "gpu"
            device = torch.device("cuda", device_id) if gpu else torch.device(device_type)
            self._place(self._model, device)

    def __getstate__(self) -> dict[str, Any]:
        # Both are made anew when needed, and a schedule of the optimiser, which is a generator,
        # can be neither copied nor pickled.
        return {**self.__dict__, "_predictor": None, "_adamw": None}

    def _place(self, model: PreTrainedModel, device: torch.device) -> None:
        """Move an encoder to a device and settle in which precision it predicts there."""
        precision = choose_precision(self.settings.precision, device)
        if precision == ("float16" if device.type == "cpu" else "int8"):
            raise ValueError(
                f"precision = '{self.settings.precision}' does not run on the device "
                f"'{device.type}': int8 is for the CPU, float16 for a GPU, bfloat16 for both."
            )
        self._model = nn.Module.to(model, device)
        self._precision = precision
        self._batch_tokens = choose_batch_tokens(self.settings, precision, device)
        self._predictor = None
        self._adamw = None

    def _adopt(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        depth = model.config.num_hidden_layers
        for layer in self.settings.layers:
            if not -depth - 1 <= layer <= depth:
                raise ValueError(
                    f"layers = {list(self.settings.layers)}: the encoder has the hidden states "
                    f"{-depth - 1} to {depth}, embeddings included."
                )
        freeze_layers(model, self.settings.freeze)
        self._place(model, get_torch_default_device())
        self.tokenizer = tokenizer
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        # The text of a special token is just text.
        backend.encode_special_tokens = True
        self._frame = special_tokens(backend)
        limit = min(self.settings.window, max_length(model))
        self._window = limit - sum(map(len, self._frame))
        if self._window < 1:
            raise ValueError(
                f"window = {self.settings.window}: the encoder reads at most {limit} wordpieces, "
                f"{limit - self._window} of which are special ones around the text, so none is "
                "left for it. Set a larger window."
            )
        self._stride = min(self.settings.stride, self._window - 1)

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
            list(batch_windows(windows, self._batch_tokens)),
            self._frame,
            self.encoder.config.pad_token_id or 0,
            self.device,
        )

    def __call__(self, batch: Batch, is_train: bool) -> tuple[Tensor, Callable[[Tensor], None]]:
        if not batch.inputs:
            # Not a single wordpiece in any document.
            zeros = torch.zeros(len(batch.offsets), self.width, device=self.device)
            return zeros, lambda d_vectors: None
        if is_train and self.is_trained:
            return self._begin_update(batch)
        return self._predict(batch), lambda d_vectors: None

    def _predict(self, batch: Batch) -> Tensor:
        if self._predictor is None:
            self._predictor = cast_for_prediction(self.encoder, self._precision)
        with torch.inference_mode():
            return token_vectors(self._predictor, batch, self.settings.layers)

    def _begin_update(self, batch: Batch) -> tuple[Tensor, Callable[[Tensor], None]]:
        self._predictor = None
        self.encoder.train()
        half = self._precision in ("bfloat16", "float16")
        # On the CPU fused attention over short texts is slower to differentiate than plain one.
        plain = sdpa_kernel(SDPBackend.MATH) if self.device.type == "cpu" else nullcontext()
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half), plain:
            vectors = token_vectors(self.encoder, batch, self.settings.layers)

        def backprop(d_vectors: Tensor) -> None:
            vectors.backward(d_vectors)

        return vectors.detach(), backprop

    def finish_update(self, optimizer: Optimizer) -> None:
        if not self.is_trained:
            return
        # It may have been made after the gradients: `spacy train` predicts between the two for
        # what stands in `annotating_components`.
        self._predictor = None
        plain = isinstance(optimizer, Optimizer) and optimizer.b1 and not optimizer.use_radam
        plain = plain and (optimizer.L2_is_weight_decay or not optimizer.L2)
        if not plain or optimizer.averages is not None:
            self._finish_update_by_tensor(optimizer)
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

    def _finish_update_by_tensor(self, optimizer: Callable[..., Any]) -> None:
        """Let a Thinc optimiser see each tensor: one other than Adam, one that keeps averages of
        all weights or has L2 in the gradient, or what `nlp.rehearse` gives. As for all of Thinc's
        weights, each tensor's gradient is then clipped by itself, and biases decay too."""
        for name, parameter in self.encoder.named_parameters():
            if parameter.grad is not None:
                values, gradient = torch2xp(parameter.data), torch2xp(parameter.grad)
                values, _ = optimizer((self.id, name), values, gradient)
                parameter.data = xp2torch(values, device=self.device)
                # `nlp.rehearse` reads the gradient later: let go of it, do not overwrite it.
                parameter.grad = None

    @contextmanager
    def use_params(self, params: dict[tuple[int, str], Any]) -> Iterator[None]:
        """Predict with other weights, an optimizer's averages, for a while.

        Thinc's own looks for them under other keys than its optimizers keep them by.
        """
        parameters = {} if self._model is None else dict(self.encoder.named_parameters())
        given = {name: params[self.id, name] for name in parameters if (self.id, name) in params}
        kept = {name: parameters[name].data for name in given}
        self._predictor = None
        for name, values in given.items():
            parameters[name].data = xp2torch(values, device=self.device)
        try:
            yield
        finally:
            self._predictor = None
            for name, values in kept.items():
                parameters[name].data = values

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


def token_vectors(model: nn.Module, batch: Batch, layers: Sequence[int]) -> Tensor:
    """Run the encoder and average each token's wordpieces.

    model (nn.Module): The encoder.
    batch (Batch): Its input.
    layers (Sequence[int]): The hidden states that are concatenated.
    RETURNS (Tensor): Float32, shape (n_tokens, width * len(layers)).
    """
    hidden = []
    for ids, mask in batch.inputs:
        output = model(
            input_ids=ids, attention_mask=mask, output_hidden_states=any(i != -1 for i in layers)
        )
        states = [output.last_hidden_state if i == -1 else output.hidden_states[i] for i in layers]
        hidden.append(torch.cat(states, dim=-1).flatten(0, 1))
    return F.embedding_bag(batch.rows, torch.cat(hidden).float(), batch.offsets, mode="mean")


def choose_batch_tokens(settings: Settings, precision: str, device: torch.device) -> int:
    """Most wordpieces of a batch: what the settings say, or for "auto" what is fastest."""
    if settings.batch_tokens != "auto":
        return settings.batch_tokens
    cached = device.type == "cpu" and precision in ("float32", "int8")
    return CACHED_BATCH if cached else LARGE_BATCH


def cast_for_prediction(model: PreTrainedModel, precision: str) -> nn.Module:
    """The encoder in the precision it predicts in: itself for float32, else a copy."""
    model.eval()
    if precision == "float32":
        return model
    if precision == "int8":
        return quantize(model)
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
