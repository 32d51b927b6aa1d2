"""Open and few-shot named entity recognition for spaCy: UniversalNER and NuNER."""

from importlib.metadata import version

__version__ = version("spacy-universalner")
