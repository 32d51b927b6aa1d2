"""Encoders read as decoders."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    T5Config,
    T5ForConditionalGeneration,
)

from spacy_universalner.universal_ner.student import make_student, save_student


def test_student_keeps_the_weights_of_its_encoder(tiny_bert, tmp_path):
    save_student(str(tiny_bert), tmp_path)
    encoder = AutoModel.from_pretrained(tiny_bert).state_dict()
    student = AutoModelForCausalLM.from_pretrained(tmp_path)
    kept = {
        name: weight
        for name, weight in student.base_model.state_dict().items()
        if not name.startswith("pooler")
    }
    assert kept.keys() == {name for name in encoder if not name.startswith("pooler")}
    assert all(torch.equal(weight, encoder[name]) for name, weight in kept.items())
    assert student.get_output_embeddings().weight is student.get_input_embeddings().weight


def test_student_reads_from_left_to_right(tiny_bert):
    model, tokenizer = make_student(str(tiny_bert))
    ids = torch.tensor([tokenizer("Marie Curie won the Nobel Prize")["input_ids"]])
    changed = ids.clone()
    changed[0, -1] = tokenizer.unk_token_id
    with torch.no_grad():
        before, after = model(ids).logits, model(changed).logits
    assert torch.equal(before[:, :-1], after[:, :-1])
    assert not torch.allclose(before[:, -1], after[:, -1])


def test_student_ends_with_the_separator_and_pads_with_padding(tiny_bert, tmp_path):
    save_student(str(tiny_bert), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    generation = AutoModelForCausalLM.from_pretrained(tmp_path).generation_config
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "[CLS]",
        "[SEP]",
        "[PAD]",
    )
    assert generation.eos_token_id == tokenizer.sep_token_id
    assert generation.pad_token_id == tokenizer.pad_token_id
    assert not generation.do_sample


def test_the_last_states_are_read_with_the_word_embeddings(tiny_bert):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    transform = make_student(str(tiny_bert))[0].cls.predictions.transform
    assert torch.equal(torch.rand(1), expected)  # the generator is left alone
    assert torch.equal(transform.dense.weight, torch.eye(len(transform.dense.weight)))
    assert not transform.dense.bias.any()


def test_causal_model_stays_as_it_is(tiny_llama, tmp_path):
    save_student(str(tiny_llama), tmp_path)
    before = AutoModelForCausalLM.from_pretrained(tiny_llama)
    after = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert after.config.to_diff_dict() == before.config.to_diff_dict()
    for name, weight in before.state_dict().items():
        assert torch.equal(after.state_dict()[name], weight)


def test_other_models_are_refused_by_name(tmp_path, tiny_gpt2):
    config = T5Config(vocab_size=300, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_gpt2).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is of type 't5'"):
        make_student(str(tmp_path))


def test_missing_weights_are_explained():
    with pytest.raises(OSError, match=r"no/such-model.*download"):
        make_student("no/such-model")
