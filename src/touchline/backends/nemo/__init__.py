"""NeMo (NVIDIA)."""
