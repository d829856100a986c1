"""The nouns: frozen, keyword-only dataclasses. They know nothing of files, processes or clocks."""
