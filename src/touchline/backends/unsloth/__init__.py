"""Unsloth, which patches TRL: what it prints beside what the Trainer prints. It is read, and not yet driven."""
