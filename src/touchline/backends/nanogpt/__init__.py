"""nanoGPT, and the speed runs and C programs that came from it."""
