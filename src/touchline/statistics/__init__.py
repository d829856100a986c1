"""Intervals and tests for shares of right answers, in plain Python; nothing here knows of files or models."""
