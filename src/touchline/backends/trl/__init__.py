"""The Hugging Face Trainer and TRL: what they print and write. They are read today, and not yet driven."""
