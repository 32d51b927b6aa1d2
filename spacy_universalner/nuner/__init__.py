"""NuNER (arXiv 2402.15343): an encoder pre-trained on LLM annotation, and its token classifier."""
