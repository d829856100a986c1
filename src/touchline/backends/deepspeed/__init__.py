"""DeepSpeed (Microsoft)."""
