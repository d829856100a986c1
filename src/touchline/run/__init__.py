"""Executors, the ledger, and what a run's status files say. The folder is the truth; any later process can read it."""
