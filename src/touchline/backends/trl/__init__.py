"""The Hugging Face Trainer and TRL, which builds on it: what they print and write, read only."""
