"""Megatron-LM (NVIDIA), and what is built on it."""
