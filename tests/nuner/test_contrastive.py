"""The training network: pooling, loss, frozen layers and their stored output."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import (
    AutoModel,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
)

from spacy_universalner.nuner.backbone import freeze_layers, load_encoder
from spacy_universalner.nuner.batches import ContrastiveBatch, Rows
from spacy_universalner.nuner.contrastive import (
    ContrastiveModel,
    binary_cross_entropy,
    bottom_states,
    comes_apart,
    embed_concepts,
    encode,
    without_bottom,
)

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}
CONFIGS = [
    BertConfig(**SIZES, initializer_range=0.5),
    RobertaConfig(**SIZES, initializer_range=0.5),
    MPNetConfig(**SIZES, initializer_range=0.5),
    DebertaV2Config(**SIZES, initializer_range=0.5, relative_attention=True, position_buckets=8),
    ModernBertConfig(**SIZES, initializer_range=0.5, pad_token_id=1),
    DistilBertConfig(
        vocab_size=50, dim=16, n_layers=3, n_heads=2, hidden_dim=32, initializer_range=0.5
    ),
]
ROWS = Rows.pad([torch.tensor([2, 7, 9, 11, 3]), torch.tensor([2, 8, 3])], pad_id=1)


def make_encoder(config=CONFIGS[0], seed=0):
    torch.manual_seed(seed)
    return AutoModel.from_config(config).eval()


@given(
    st.integers(1, 6).flatmap(
        lambda rows: st.integers(1, 6).flatmap(
            lambda columns: st.tuples(
                st.lists(st.floats(-30, 30), min_size=rows * columns, max_size=rows * columns).map(
                    lambda values: torch.tensor(values).view(rows, columns)
                ),
                st.sets(st.tuples(st.integers(0, rows - 1), st.integers(0, columns - 1))),
            )
        )
    )
)
def test_loss_from_the_places_of_the_ones_is_that_of_the_whole_target_array(case):
    logits, ones = case
    targets = torch.zeros_like(logits)
    for row, column in ones:
        targets[row, column] = 1
    rows = torch.tensor([row for row, _ in ones], dtype=torch.long)
    columns = torch.tensor([column for _, column in ones], dtype=torch.long)
    expected = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    torch.testing.assert_close(
        binary_cross_entropy(logits, rows, columns), expected, rtol=1e-5, atol=1e-4
    )


def test_what_is_ignored_is_neither_a_one_nor_a_zero():
    logits = torch.tensor([[0.5, -1.0, 2.0], [3.0, 0.0, -2.0]])
    ones = torch.tensor([0, 1]), torch.tensor([0, 2])
    ignored = torch.tensor([0, 1]), torch.tensor([2, 0])
    targets = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    weights = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    expected = F.binary_cross_entropy_with_logits(logits, targets, weights, reduction="sum")
    torch.testing.assert_close(binary_cross_entropy(logits, *ones, ignored), expected)


def test_model_gives_the_cross_entropy_of_tokens_and_concepts():
    text_encoder, concept_encoder = make_encoder(seed=0), make_encoder(seed=1)
    model = ContrastiveModel(text_encoder, concept_encoder, temperature=4.0, bias=-2.0).eval()
    short = Rows.pad([torch.tensor([2, 5, 3])], pad_id=1)
    long = Rows.pad([torch.tensor([2, 5, 6, 3]), torch.tensor([2, 7, 8, 3])], pad_id=1)
    batch = ContrastiveBatch(
        texts=ROWS,
        concepts=[short, long],
        tokens=torch.tensor([1, 2, 6]),  # the last one is token 1 of the second text
        columns=torch.tensor([0, 0, 2]),
    )

    def states(encoder, ids):
        return encoder(input_ids=torch.tensor([ids])).last_hidden_state[0]

    tokens = torch.cat([states(text_encoder, [2, 7, 9, 11, 3]), states(text_encoder, [2, 8, 3])])
    concepts = torch.stack(
        [states(concept_encoder, ids).mean(0) for ids in ([2, 5, 3], [2, 5, 6, 3], [2, 7, 8, 3])]
    )
    targets = torch.zeros(8, 3)
    targets[1, 0] = targets[2, 0] = targets[6, 2] = 1
    logits = tokens @ concepts.T / 4.0 - 2.0
    expected = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    torch.testing.assert_close(model(batch), expected, rtol=1e-4, atol=1e-4)


def test_pooling_takes_the_mean_of_the_real_tokens_or_the_first():
    encoder = make_encoder()
    states = encode(encoder, ROWS)
    mean = ContrastiveModel(encoder, encoder, pooling="mean").encode_concepts(ROWS)
    first = ContrastiveModel(encoder, encoder, pooling="first").encode_concepts(ROWS)
    torch.testing.assert_close(mean, torch.stack([states[0].mean(0), states[1, :3].mean(0)]))
    torch.testing.assert_close(first, states[:, 0])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
@pytest.mark.parametrize("number", [1, 2])
def test_top_on_stored_states_is_the_whole_encoder(config, number):
    encoder = make_encoder(config)
    names = [name for name, _ in encoder.named_parameters()]
    expected = encode(encoder, ROWS)
    stored = Rows.pad(bottom_states(encoder, number, ROWS), pad_id=0)
    with without_bottom(encoder, number):
        found = encode(encoder, Rows(stored.values, ROWS.mask))
    mask = ROWS.mask.bool()
    torch.testing.assert_close(found[mask], expected[mask], rtol=1e-4, atol=1e-4)
    # and the encoder is whole again
    assert [name for name, _ in encoder.named_parameters()] == names
    torch.testing.assert_close(encode(encoder, ROWS), expected)


@pytest.mark.parametrize("number", [1, 2])
def test_a_bottom_that_does_not_come_off_is_told(number):
    assert all(comes_apart(make_encoder(config), number, ROWS) for config in CONFIGS)
    beside = [
        ElectraConfig(**SIZES, embedding_size=8, initializer_range=0.5),
        DebertaV2Config(**SIZES, initializer_range=0.5, conv_kernel_size=3, conv_act="gelu"),
    ]
    for config in beside:
        encoder = make_encoder(config)
        before = encode(encoder, ROWS)
        assert not comes_apart(encoder, number, ROWS)
        torch.testing.assert_close(encode(encoder, ROWS), before)  # and it is whole again


def test_frozen_layers_have_no_dropout_while_the_others_train():
    config = BertConfig(**SIZES, hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    encoder = make_encoder(config)
    freeze_layers(encoder, 2)
    model = ContrastiveModel(encoder, make_encoder(config)).train()
    assert not encoder.embeddings.dropout.training
    assert not any(
        module.training for layer in encoder.encoder.layer[:2] for module in layer.modules()
    )
    assert all(module.training for module in encoder.encoder.layer[2].modules())
    assert model.concept_encoder.embeddings.dropout.training
    first = encoder(**{"input_ids": ROWS.values, "output_hidden_states": True}).hidden_states
    second = encoder(**{"input_ids": ROWS.values, "output_hidden_states": True}).hidden_states
    torch.testing.assert_close(first[2], second[2])
    assert not torch.allclose(first[3], second[3])


def test_concepts_are_embedded_as_in_training(tiny_bert):
    encoder, tokenizer = load_encoder(str(tiny_bert))
    names = ["person", "capital city", "person"]
    found = embed_concepts(encoder, tokenizer, names, batch_size=2)
    assert found.shape == (3, 32)
    for name, vector in zip(names, found, strict=True):
        states = encoder(**tokenizer(name, return_tensors="pt")).last_hidden_state[0]
        torch.testing.assert_close(vector, states.mean(0), rtol=1e-4, atol=1e-4)


def test_a_name_that_runs_away_is_cut_where_the_encoder_ends(tiny_bert):
    encoder, tokenizer = load_encoder(str(tiny_bert))
    limit = encoder.config.max_position_embeddings
    one, longer = embed_concepts(encoder, tokenizer, ["city " * limit, "city " * 2 * limit])
    torch.testing.assert_close(one, longer)
