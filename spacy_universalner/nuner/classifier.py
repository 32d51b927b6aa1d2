"""The token classifier: exclusive classes over token vectors (paper, sections 4.1 and 6)."""

from __future__ import annotations

from typing import Any, Literal

from spacy.tokens import Doc
from thinc.api import Dropout, Linear, Model, Relu, chain, with_array
from thinc.types import Floats2d


def build_nuner_token_classifier_v1(
    tok2vec: Model[list[Doc], list[Floats2d]],
    head: Literal["linear", "mlp"] = "linear",
    hidden_size: int = 128,
    dropout: float = 0.1,
    scheme: Literal["io", "bio"] = "bio",
) -> Model[list[Doc], list[Floats2d]]:
    """Build the model `spacy-universalner.NuNERTokenClassifier.v1`.

    tok2vec (Model[list[Doc], list[Floats2d]]): Gives one vector per token, such as
        `spacy-universalner.NuNEREncoder.v1` or `spacy-transformers.TransformerListener.v1`.
    head (str): "linear" for one layer (section 4.1), "mlp" for two with dropout between them
        (section 6).
    hidden_size (int): Units of the first layer of "mlp".
    dropout (float): Share of a layer's input that is dropped in training. It holds whatever
        `[training] dropout` says, as the encoder's own dropout does.
    scheme (str): "bio" tells neighbouring entities of one type apart, "io" has fewer classes to
        learn.
    RETURNS (Model[list[Doc], list[Floats2d]]): Logits of shape (n_tokens, n_classes).
    """
    output: Model[Floats2d, Floats2d] = Linear()
    layers = [Dropout(dropout), output]
    if head == "mlp":
        layers = [Dropout(dropout), Relu(nO=hidden_size), *layers]
    model: Model[list[Doc], list[Floats2d]] = chain(tok2vec, with_array(chain(*layers)))
    model.attrs["scheme"] = scheme
    model.attrs["resize_output"] = resize_output
    model.set_ref("tok2vec", tok2vec)
    model.set_ref("output_layer", output)
    return model


def resize_output(
    model: Model[list[Doc], list[Floats2d]], n_classes: int
) -> Model[list[Doc], list[Floats2d]]:
    """Let a classifier have more classes. Those it knows keep their weights, new ones start at 0.

    model (Model[list[Doc], list[Floats2d]]): Changed in place.
    n_classes (int): The new number of classes.
    RETURNS (Model[list[Doc], list[Floats2d]]): The model.
    """
    old = model.get_ref("output_layer")
    if not old.has_dim("nO") or old.get_dim("nO") == n_classes:
        return model
    width, known = old.get_dim("nI"), old.get_dim("nO")
    new: Model[Floats2d, Floats2d] = Linear(nO=n_classes, nI=width)
    for name, shape in (("W", (n_classes, width)), ("b", (n_classes,))):
        parameter: Any = new.ops.alloc_f(shape)
        parameter[:known] = old.get_param(name)
        new.set_param(name, parameter)
    model.replace_node(old, new)
    for node in model.walk():
        if node.has_dim("nO") and new in node.walk():
            node.set_dim("nO", n_classes, force=True)
    return model
