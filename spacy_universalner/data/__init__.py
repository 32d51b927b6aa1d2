"""From raw text to training data: annotation by an LLM, conversations, readers and writers."""
