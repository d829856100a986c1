"""Checks of a single checkpoint, used by `results.verification`."""
