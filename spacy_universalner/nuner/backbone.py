"""Pretrained encoders of any family: loading, freezing, limits."""

from __future__ import annotations

from typing import Literal

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoModel, AutoTokenizer
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_fast import PreTrainedTokenizerFast
from transformers.utils import logging

from spacy_universalner import pretrained

Freeze = Literal["none", "all"] | int


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
    except (OSError, ValueError) as error:
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
        the embeddings (the paper's pre-training freezes 6 of 12, section 3.3). DeBERTa's relative
        embeddings feed every layer, the frozen ones too, and are frozen with them.
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
    if hasattr(model, "final_norm"):  # ModernBERT's, above the layers
        model.final_norm.requires_grad_(True)


def freeze_bottom(encoder: PreTrainedModel, fraction: float) -> int:
    """Exclude the embeddings and the bottom layers from training (NuNER 3.3: the bottom half).

    encoder (PreTrainedModel): Changed in place.
    fraction (float): Share of the layers, rounded down. With none of them frozen the embeddings
        are trained as well.
    RETURNS (int): How many layers are frozen.
    """
    number = int(fraction * len(transformer_layers(encoder)))
    freeze_layers(encoder, number or "none")
    return number


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
