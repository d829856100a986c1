"""LitGPT (Lightning AI)."""
