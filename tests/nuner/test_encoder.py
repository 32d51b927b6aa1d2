"""The encoder layer against a plain forward pass of the same Hugging Face model."""

import re
import shutil

import numpy as np
import pytest
import spacy
import torch
from thinc.api import Adam, Model, RAdam
from transformers import AutoModel, AutoTokenizer

from spacy_universalner.nuner.encoder import build_nuner_encoder_v1
from tests.nuner.test_families import make_base

TEXTS = [
    "Marie Curie won the Nobel Prize in Paris.",
    "",
    "Barack Obama was born in Hawaii and worked in Washington for the United States.",
    " ",
    "Pierre",
]


def make_encoder(folder, **settings) -> Model:
    encoder = build_nuner_encoder_v1(str(folder), **settings)
    encoder.initialize()
    return encoder


def make_gradients(vectors):
    """Not all ones: a normalisation layer hands on no more of their sum than its rounding."""
    draw = np.random.default_rng(0)
    return [draw.normal(size=each.shape).astype("f") for each in vectors]


def parameters(encoder):
    return {
        name: parameter.detach().clone()
        for name, parameter in encoder.shims[0].encoder.named_parameters()
    }


@pytest.fixture(scope="module")
def nlp():
    return spacy.blank("en")


@pytest.fixture(scope="module")
def docs(nlp):
    return [nlp.make_doc(text) for text in TEXTS]


def expected_vectors(folder, doc, layers):
    """The same for one document, with nothing but transformers."""
    if not len(doc):
        return np.zeros((0, 32 * len(layers)), dtype="float32")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    encoding = tokenizer(doc.text, return_offsets_mapping=True, return_tensors="pt")
    offsets = encoding.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        states = model(**encoding, output_hidden_states=True).hidden_states
    hidden = torch.cat([states[layer] for layer in layers], dim=-1)[0].numpy()
    return np.stack(
        [
            np.stack(
                [
                    hidden[i]
                    for i, (start, end) in enumerate(offsets)
                    if start < token.idx + len(token) and end > token.idx
                ]
            ).mean(axis=0)
            if not token.is_space
            else np.zeros(hidden.shape[1])
            for token in doc
        ]
    )


@pytest.mark.parametrize("layers", [[-1], [-1, -2], [0, 1, 2]])
@pytest.mark.parametrize("batch_tokens", [1, 30, 4096])
def test_vectors_are_the_mean_over_wordpieces(tiny_bert, docs, layers, batch_tokens):
    encoder = make_encoder(tiny_bert, layers=layers, batch_tokens=batch_tokens)
    assert encoder.get_dim("nO") == 32 * len(layers)
    for doc, vectors in zip(docs, encoder.predict(docs), strict=True):
        np.testing.assert_allclose(
            vectors, expected_vectors(tiny_bert, doc, layers), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    ("settings", "largest"),
    [
        ({}, 1024),
        ({"precision": "int8"}, 1024),
        ({"precision": "bfloat16"}, 4096),
        ({"batch_tokens": 300}, 300),
        ({"precision": "bfloat16", "batch_tokens": 300}, 300),
    ],
)
def test_batches_are_as_large_as_suits_the_precision(tiny_bert, nlp, settings, largest):
    encoder = make_encoder(tiny_bert, **settings)
    # 8 wordpieces and 2 special tokens each
    batch = encoder.shims[0].prepare([nlp.make_doc(" ".join(["won"] * 8))] * 1000)
    assert max(ids.numel() for ids, _ in batch.inputs) == largest // 8 * 10
    assert sum(len(ids) for ids, _ in batch.inputs) == 1000


def test_documents_without_wordpieces_have_zero_vectors(tiny_bert, nlp):
    encoder = make_encoder(tiny_bert)
    for is_train in (False, True):
        vectors, backprop = encoder([nlp.make_doc(""), nlp.make_doc("  ")], is_train)
        assert [v.shape for v in vectors] == [(0, 32), (1, 32)]
        assert not vectors[1].any()
        backprop(vectors)


def test_windows_see_their_context_and_no_more(tiny_bert, nlp):
    """A window's core has the vectors of the window alone."""
    words = ["won"] * 60 + ["prize"] * 60
    doc = spacy.tokens.Doc(nlp.vocab, words=words)
    encoder = make_encoder(tiny_bert, window=42, stride=20)  # 40 wordpieces, 2 special tokens
    (vectors,) = encoder.predict([doc])
    whole = make_encoder(tiny_bert)
    # Cores are [0, 30), [30, 50), [50, 70), ...; the third window is [40, 80).
    (window,) = whole.predict([spacy.tokens.Doc(nlp.vocab, words=words[40:80])])
    np.testing.assert_allclose(vectors[50:70], window[10:30], rtol=1e-4, atol=1e-5)


def test_text_of_special_tokens_is_text(tiny_bert, nlp):
    encoder = make_encoder(tiny_bert)
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    batch = encoder.shims[0].prepare([nlp.make_doc("[SEP] [PAD]")])
    ids = batch.inputs[0][0][0].tolist()
    assert ids[0] == tokenizer.cls_token_id and ids[-1] == tokenizer.sep_token_id
    assert not set(ids[1:-1]) & set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}


def test_gradients_are_those_of_pytorch(tiny_bert, docs):
    """Through the mean, the batches by length and any hidden states."""
    encoder = make_encoder(tiny_bert, layers=[-1, 1], batch_tokens=30)
    encoder.shims[0].encoder.config.hidden_dropout_prob = 0.0
    for module in encoder.shims[0].encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for layer in encoder.shims[0].encoder.encoder.layer:
        layer.attention.self.dropout_prob = 0.0
    vectors, backprop = encoder.begin_update(docs)
    rng = np.random.default_rng(0)
    directions = [rng.normal(size=v.shape).astype("float32") for v in vectors]
    backprop(directions)
    weight = encoder.shims[0].encoder.encoder.layer[0].output.dense.weight
    gradient = weight.grad[3, 5].item()

    def loss():
        values = encoder.predict(docs)
        return sum((v * d).sum(dtype="float64") for v, d in zip(values, directions, strict=True))

    step = 1e-2
    with torch.no_grad():
        weight[3, 5] += step
        above = loss()
        weight[3, 5] -= 2 * step
        below = loss()
    assert gradient == pytest.approx((above - below) / (2 * step), rel=2e-2)


@pytest.mark.parametrize(
    ("family", "freeze", "trained"),
    [
        ("bert", "none", {"embeddings", "layer.0", "layer.1"}),
        ("bert", 0, {"layer.0", "layer.1"}),
        ("bert", 1, {"layer.1"}),
        ("bert", 2, set()),
        ("bert", "all", set()),
        ("modernbert", 0, {"layers.0", "layers.1", "final_norm"}),
        ("modernbert", 2, {"final_norm"}),
        ("modernbert", "all", set()),
        ("deberta-v3", 0, {"layer.0", "layer.1"}),
    ],
)
def test_frozen_weights_stay_as_they_are(tiny_bert, docs, tmp_path, family, freeze, trained):
    folder = tiny_bert if family == "bert" else make_base(family, tmp_path)
    encoder = make_encoder(folder, freeze=freeze)
    before = parameters(encoder)
    vectors, backprop = encoder.begin_update(docs)
    backprop(make_gradients(vectors))
    encoder.finish_update(Adam(0.01, use_averages=False))
    changed = {name for name, p in parameters(encoder).items() if not torch.equal(p, before[name])}
    part = re.compile(r"embeddings|layers?\.\d|\w+")
    assert {part.search(name.removeprefix("encoder."))[0] for name in changed} == trained


def test_updates_are_those_of_adamw(tiny_bert, docs):
    """The settings of Thinc's optimiser, its schedule included, reach the fused one."""
    encoder = make_encoder(tiny_bert)
    reference = AutoModel.from_pretrained(tiny_bert, add_pooling_layer=False)
    torch_adamw = torch.optim.AdamW(reference.parameters(), lr=0.0, eps=1e-6, weight_decay=0.1)
    optimizer = Adam([0.01, 0.002], L2=0.1, eps=1e-6, grad_clip=1.0, use_averages=False)
    names = dict(reference.named_parameters())
    for rate in (0.01, 0.002):
        vectors, backprop = encoder.begin_update(docs)
        backprop(make_gradients(vectors))
        for name, parameter in encoder.shims[0].encoder.named_parameters():
            names[name].grad = None if parameter.grad is None else parameter.grad.clone()
        torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
        torch_adamw.param_groups[0]["lr"] = rate
        torch_adamw.step()
        encoder.finish_update(optimizer)
        optimizer.step_schedules()
    after = parameters(encoder)
    weight = "encoder.layer.1.output.dense.weight"
    torch.testing.assert_close(after[weight], names[weight].detach())
    # Biases do not decay here; the reference's do.
    assert not torch.allclose(
        after["encoder.layer.1.output.LayerNorm.weight"],
        names["encoder.layer.1.output.LayerNorm.weight"],
    )


def test_l2_is_weight_decay_or_a_part_of_the_gradient(tiny_bert, docs):
    after = []
    for decay in (True, False):
        encoder = make_encoder(tiny_bert)
        vectors, backprop = encoder.begin_update(docs)
        backprop(make_gradients(vectors))
        encoder.finish_update(Adam(0.01, L2=0.5, L2_is_weight_decay=decay, use_averages=False))
        after.append(parameters(encoder)["encoder.layer.1.output.dense.weight"])
    assert not torch.allclose(*after)


def test_a_frozen_encoder_is_cast_once(tiny_bert, docs):
    encoder = make_encoder(tiny_bert, freeze="all", precision="int8")
    shim = encoder.shims[0]
    encoder.predict(docs)
    cast = shim._predictor
    for _ in range(2):
        vectors, backprop = encoder.begin_update(docs)
        backprop(make_gradients(vectors))
        encoder.finish_update(Adam(0.01, use_averages=False))
    assert shim._predictor is cast


def test_a_model_without_weights_moves(docs):
    encoder = build_nuner_encoder_v1("embedded")
    encoder.to_cpu()
    with pytest.raises(ValueError, match="has no weights yet"):
        encoder.predict(docs)


def test_what_is_made_of_the_weights_does_not_stay_behind(tiny_bert, docs):
    """The move is to "meta", a device without figures, for want of another."""
    encoder = make_encoder(tiny_bert, precision="bfloat16")
    shim = encoder.shims[0]
    vectors, backprop = encoder.begin_update(docs)
    backprop(make_gradients(vectors))
    encoder.finish_update(Adam(0.01, use_averages=False))
    encoder.predict(docs)
    shim.to_device("meta", 0)
    assert shim.device.type == "meta" and shim._predictor is shim._adamw is None


def test_precision_and_batches_are_those_of_the_device(tiny_bert, docs, nlp):
    encoder = make_encoder(tiny_bert)
    shim = encoder.shims[0]
    many = [nlp.make_doc(" ".join(["won"] * 8))] * 1000
    sizes = []
    for device in ("cpu", "meta"):
        shim.to_device(device, 0)
        sizes.append(max(ids.numel() for ids, _ in shim.prepare(many).inputs))
    assert sizes == [1024 // 8 * 10, 4096 // 8 * 10]
    encoder = make_encoder(tiny_bert, precision="int8")
    expected = encoder.predict(docs)
    with pytest.raises(ValueError, match="'int8' does not run on the device 'cuda'"):
        encoder.shims[0].to_device("gpu", 0)
    np.testing.assert_array_equal(encoder.predict(docs)[0], expected[0])


def test_radam_goes_the_way_of_thinc(tiny_bert, docs):
    encoder = make_encoder(tiny_bert)
    before = parameters(encoder)
    vectors, backprop = encoder.begin_update(docs)
    backprop(make_gradients(vectors))
    encoder.finish_update(RAdam(0.01))
    name = "encoder.layer.1.output.dense.weight"
    assert not torch.equal(parameters(encoder)[name], before[name])


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_lower_precisions_are_close_and_leave_the_weights_alone(tiny_bert, docs, precision):
    exact = np.concatenate(make_encoder(tiny_bert).predict(docs))
    encoder = make_encoder(tiny_bert, precision=precision)
    before = parameters(encoder)
    rough = np.concatenate(encoder.predict(docs))
    assert rough.dtype == "float32"
    assert not np.array_equal(rough, exact)
    cosine = (exact * rough).sum() / np.linalg.norm(exact) / np.linalg.norm(rough)
    assert cosine > 0.98
    assert all(torch.equal(p, before[name]) for name, p in parameters(encoder).items())


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_predictions_follow_an_update(tiny_bert, docs, precision):
    encoder = make_encoder(tiny_bert, precision=precision)
    before = encoder.predict(docs)
    vectors, backprop = encoder.begin_update(docs)
    backprop(make_gradients(vectors))
    # As `spacy train` does it for what stands in `annotating_components`.
    np.testing.assert_array_equal(encoder.predict(docs)[0], before[0])
    encoder.finish_update(Adam(0.01, use_averages=False))
    assert not np.allclose(encoder.predict(docs)[0], before[0], atol=1e-3)


def test_averages_are_of_all_weights(tiny_bert, docs):
    encoder = make_encoder(tiny_bert, precision="bfloat16")
    optimizer = Adam(0.01, use_averages=True)
    outputs = []
    for _ in range(3):
        vectors, backprop = encoder.begin_update(docs)
        backprop(make_gradients(vectors))
        encoder.finish_update(optimizer)
        outputs.append(encoder.predict(docs)[0])
    trained = parameters(encoder)
    assert {name for _, name in optimizer.averages} == set(trained)
    with encoder.use_params(optimizer.averages):
        averaged = parameters(encoder)
        assert not any(torch.equal(averaged[name], trained[name]) for name in trained)
        assert not np.allclose(encoder.predict(docs)[0], outputs[-1], atol=1e-3)
    np.testing.assert_array_equal(encoder.predict(docs)[0], outputs[-1])
    assert all(torch.equal(each, trained[name]) for name, each in parameters(encoder).items())


def test_bytes_hold_all_that_is_needed(tiny_bert, docs, tmp_path):
    folder = tmp_path / "encoder"
    shutil.copytree(tiny_bert, folder)
    encoder = make_encoder(folder, layers=[-1, -2])
    expected = encoder.predict(docs)
    data = encoder.to_bytes()
    shutil.rmtree(folder)
    loaded = build_nuner_encoder_v1(str(folder), layers=[-1, -2]).from_bytes(data)
    for one, other in zip(expected, loaded.predict(docs), strict=True):
        np.testing.assert_array_equal(one, other)
    assert loaded.to_bytes() == data
    # Before it has weights, there is nothing to hold.
    fresh = build_nuner_encoder_v1(str(folder))
    fresh.from_bytes(fresh.to_bytes())
    with pytest.raises(ValueError, match="has no weights yet"):
        fresh.predict(docs)


def test_a_copy_is_independent(tiny_bert, docs):
    encoder = make_encoder(tiny_bert)
    copy = encoder.copy()
    before = parameters(copy)
    vectors, backprop = encoder.begin_update(docs)
    backprop(make_gradients(vectors))
    encoder.finish_update(Adam(0.01, use_averages=False))
    assert all(torch.equal(p, before[name]) for name, p in parameters(copy).items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": []}, "layers is empty"),
        ({"layers": [-4]}, r"layers = \[-4\].*-3 to 2"),
        ({"window": 10, "stride": 10}, "stride = 10 with window = 10"),
        ({"window": 2, "stride": 1}, "window = 2: .* at most 2 wordpieces, 2 of which are special"),
        ({"freeze": 3}, "freeze = 3, but the encoder has 2 layers"),
        ({"freeze": -1}, "freeze = -1"),
        ({"batch_tokens": 0}, "batch_tokens = 0"),
        ({"precision": "float16"}, "'float16' does not run on the device 'cpu'"),
    ],
)
def test_settings_out_of_range_are_refused(tiny_bert, settings, message):
    with pytest.raises(ValueError, match=message):
        make_encoder(tiny_bert, **settings)


def test_missing_weights_are_one_clear_message(tmp_path):
    encoder = build_nuner_encoder_v1(str(tmp_path / "nowhere"))
    with pytest.raises(OSError, match=r"encoder of `nuner`.*nowhere.*name = 'embedded'"):
        encoder.initialize()


def test_use_before_initialisation_says_what_to_do(docs):
    with pytest.raises(ValueError, match=r"'embedded' has no weights yet.*nlp.initialize"):
        build_nuner_encoder_v1("embedded").predict(docs)
