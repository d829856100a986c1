"""torchtitan (PyTorch)."""
