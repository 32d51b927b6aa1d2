"""A causal language model to fine-tune, made from an encoder's own weights where there is none.

UniversalNER tunes LLaMA. Where there is no room for one, a BERT-like encoder can be read as a
left-to-right decoder: the same weights under a causal mask, with the word embeddings as its output
layer. It knows words but has never written one: all it can do, it learns from the conversations.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers.configuration_utils import PretrainedConfig
from transformers.generation.configuration_utils import GenerationConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoModelForCausalLM,
)
from transformers.models.auto.tokenization_auto import AutoTokenizer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from ..pretrained import resolve, unavailable

DROPOUT = ("hidden_dropout_prob", "attention_probs_dropout_prob")


def make_student(name: str, *, seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model, or make one from an encoder.

    An encoder's weights stay as they are. The transform before the output layer, which it lacks,
    starts as the identity, so that its last states are read with its own word embeddings: of
    all-MiniLM-L6-v2's, three in four are then nearest to the word they stand for. Its dropout is
    switched off, as LLaMA has none, and its separator becomes the end of sequence.

    name (str): "embedded", a local folder or a hub id of an encoder like BERT, or of a causal
        language model, which is left as it is.
    seed (int): For the weights that an encoder lacks.
    RETURNS (tuple[PreTrainedModel, PreTrainedTokenizerBase]): The model and its tokenizer.
    RAISES (OSError): It cannot be loaded.
    RAISES (ValueError): It is neither.
    """
    folder = resolve(name)
    try:
        config = AutoConfig.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise unavailable(name, "the student", error) from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or config.is_encoder_decoder:
        raise ValueError(
            f"'{name}' is of type '{config.model_type}', which transformers cannot read as a "
            "causal language model. Take one such as LLaMA, or an encoder such as BERT or RoBERTa."
        )
    if not is_encoder(config):
        return AutoModelForCausalLM.from_pretrained(folder, torch_dtype="auto"), tokenizer
    tokenizer.bos_token = tokenizer.bos_token or tokenizer.cls_token
    tokenizer.eos_token = tokenizer.eos_token or tokenizer.sep_token
    special_ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config.update({"is_decoder": True, **special_ids})
    config.update({name: 0.0 for name in DROPOUT if hasattr(config, name)})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, loaded = AutoModelForCausalLM.from_pretrained(
            folder, config=config, torch_dtype=torch.float32, output_loading_info=True
        )
    for missing in loaded["missing_keys"]:
        weight = model.get_parameter(missing)
        if weight.ndim == 2 and weight.shape[0] == weight.shape[1]:
            nn.init.eye_(weight)
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=256, **special_ids)
    return model, tokenizer


def is_encoder(config: PretrainedConfig) -> bool:
    """Whether a configuration is that of an encoder which can be read as a causal decoder.

    config (PretrainedConfig): Of any model.
    RETURNS (bool): False for what is a causal language model already.
    """
    return type(config) in MODEL_FOR_MASKED_LM_MAPPING and not config.is_decoder


def save_student(name: str, folder: Path, *, seed: int = 0) -> int:
    """Write a student as a folder that `AutoModelForCausalLM` and `AutoTokenizer` load.

    name (str): See `make_student`.
    folder (Path): Where to write it.
    seed (int): For the weights that an encoder lacks.
    RETURNS (int): Its number of parameters.
    """
    model, tokenizer = make_student(name, seed=seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return int(model.num_parameters())
