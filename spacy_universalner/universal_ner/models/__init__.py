"""Language models that answer prompts: in process, behind a server, or replayed from a record."""
