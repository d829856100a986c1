"""Unsloth, which patches TRL: what it and its notebooks print beside the Trainer's own output, read only."""
