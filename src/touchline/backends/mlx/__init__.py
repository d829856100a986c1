"""MLX-LM (Apple)."""
