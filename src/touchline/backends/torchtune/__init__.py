"""torchtune: what it prints and writes, and its configs, read only; its development ended in 2025."""
