"""Texts of run folders and of the experiment folder, as values; `api.prepare` writes them."""
