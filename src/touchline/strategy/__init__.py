"""Strategy: which of the planned runs come next, the grid with all of them or explore and confirm.

In: a plan, and the decisions in its ledger. Out: runs to start, decisions from results, and what plan and report say
about both, as tables and sentences.
"""
