"""The component beside others on one transformer."""

import pytest
import spacy
from spacy.training import Example
from thinc.api import Config

from tests.nuner.test_component import SENTENCES, found, teach

CONFIG = """
[nlp]
lang = "en"
pipeline = ["transformer", "tagger", "nuner"]

[components]

[components.transformer]
factory = "transformer"

[components.transformer.model]
@architectures = "spacy-transformers.TransformerModel.v3"
name = "{name}"

[components.transformer.model.get_spans]
@span_getters = "spacy-transformers.strided_spans.v1"
window = 64
stride = 48

[components.tagger]
factory = "tagger"

[components.tagger.model]
@architectures = "spacy.Tagger.v2"

[components.tagger.model.tok2vec]
@architectures = "spacy-transformers.TransformerListener.v1"
pooling = {{"@layers":"reduce_mean.v1"}}

[components.nuner]
factory = "nuner"

[components.nuner.model]
@architectures = "spacy-universalner.NuNERTokenClassifier.v1"

[components.nuner.model.tok2vec]
@architectures = "spacy-transformers.TransformerListener.v1"
pooling = {{"@layers":"reduce_mean.v1"}}
"""


def test_on_a_shared_transformer(tiny_bert):
    config = Config().from_str(CONFIG.format(name=tiny_bert))
    nlp = spacy.util.load_model_from_config(config, auto_fill=True)
    examples = []
    for text, entities in SENTENCES:
        doc = nlp.make_doc(text)
        tags = ["X"] * len(doc)
        examples.append(Example.from_dict(doc, {"entities": entities, "tags": tags}))
    spacy.util.fix_random_seed(0)
    optimizer = nlp.initialize(lambda: examples)
    assert set(nlp.update(examples, sgd=optimizer)) == {"transformer", "tagger", "nuner"}
    teach(nlp, examples, optimizer, 120)
    assert [found(nlp(text)) for text, _ in SENTENCES] == [e for _, e in SENTENCES]
    # Empty documents, alone and among others.
    text, entities = SENTENCES[0]
    assert found(nlp("")) == []
    assert [found(doc) for doc in nlp.pipe(["", text, "", ""], batch_size=2)] == [
        *([], entities),
        *([], []),
    ]
    nlp.resume_training()
    with pytest.raises(ValueError, match=r"'nuner' cannot rehearse on a shared encoder"):
        nlp.get_pipe("nuner").rehearse(examples)
    nlp.replace_listeners("transformer", "nuner", ["model.tok2vec"])
    # The copy to rehearse still listens: all that it predicts is a constant.
    with pytest.raises(ValueError, match=r"tok2vec\"\]\), and then nlp\.resume_training\(\)"):
        nlp.get_pipe("nuner").rehearse(examples)
    nlp.resume_training()
    assert nlp.get_pipe("nuner").rehearse(examples)["nuner"] > 0
