"""Packing of examples into sequences, by their lengths only."""
