"""Whole experiments to start from."""
