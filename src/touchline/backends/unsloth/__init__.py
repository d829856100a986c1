"""Unsloth, which patches TRL: what it and its notebooks print next to the Trainer's own output, read only."""
