"""UniversalNER (arXiv 2308.03279): a causal language model asked once per entity type."""
