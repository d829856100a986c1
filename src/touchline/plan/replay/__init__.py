"""Policies replayed over finished past runs: what each would have cost and saved.

Records come in; counts, hours and shares with their intervals go out, or the reason why the records do not show it.
Only runs that were trained to their end can be replayed: what a run that was cut would have become is not known.
"""
