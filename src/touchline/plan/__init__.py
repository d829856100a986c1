"""Everything resolved, with hashes, before anything runs.

Nothing is imported here: `status` reads a plan of a thousand runs and does not wait for what builds one.
"""
