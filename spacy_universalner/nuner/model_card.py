"""The model card of a pre-trained encoder."""

from __future__ import annotations

import json
from typing import Any


def model_card(metrics: dict[str, Any], concept_encoder: str) -> str:
    """Describe a pre-trained encoder (README.md of its folder).

    metrics (dict[str, Any]): What `Pretrainer.metrics` returns, and the `provenance` of its data.
    concept_encoder (str): Name of the folder in it with the concept encoder.
    RETURNS (str): Markdown with the front matter that the Hugging Face hub reads.
    """
    settings = metrics["settings"]
    passages = metrics["passages"]
    columns = ("loss", "dev_loss", "probe")
    rows = "\n".join(
        f"| {record['epoch']} | "
        + " | ".join(f"{record[name]:.5f}" if name in record else "" for name in columns)
        + " |"
        for record in metrics["epochs"]
    )
    values = "\n".join(f"{name} = {json.dumps(value)}" for name, value in settings.items())
    files = "".join(
        f"\n- `{path}`, sha256 `{checksum}`"
        for path, checksum in metrics["provenance"]["data"].items()
    )
    return f"""---
library_name: transformers
pipeline_tag: feature-extraction
tags:
- named-entity-recognition
- nuner
---

# NuNER encoder

`{settings["encoder"]}`, pre-trained contrastively for named entity recognition as in
[NuNER](https://arxiv.org/abs/2402.15343) 3.2. It gives a vector a token, to be fine-tuned on a few
annotated examples:

```python
nlp.add_pipe("nuner", config={{"model": {{"tok2vec": {{
    "@architectures": "spacy-universalner.NuNEREncoder.v1", "name": "path/to/this/folder"}}}}}})
```

## Data

{passages["train"]:,} annotated passages to train on and {passages["dev"]:,} for validation, with
{metrics["concepts"]:,} distinct concepts.
{files}
## Training

{metrics["seconds"]:,.0f} seconds, {metrics["words_per_second"]:,.0f} words a second. Settings:

```ini
[pretraining]
{values}
```

Binary cross-entropy, mean over tokens and the concepts of their batch, and macro-F1 of the frozen
few-shot probe where there was one; the weights are those after epoch {metrics["kept_epoch"]}:

| epoch | training | validation | probe |
| ---: | ---: | ---: | ---: |
{rows}

The folder `{concept_encoder}` holds the concept encoder of the same run.
"""
