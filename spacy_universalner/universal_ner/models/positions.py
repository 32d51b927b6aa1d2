"""The positions that a model counts its tokens by."""

from __future__ import annotations

from transformers.configuration_utils import PretrainedConfig

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
