"""LLaMA-Factory (llmtuner in its first year): what it prints and writes, and its configs, read only."""
