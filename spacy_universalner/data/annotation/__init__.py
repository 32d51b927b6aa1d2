"""Annotation of raw text by a large language model, as spacy-llm tasks."""
