"""Execution of a plan: run folders and scripts, jobs, executors, ledger, recovery, status, budgets.

In: a plan, its folder and the user config. Out: files, jobs and their views. Files are the source of truth, so any
later process can continue from them.
"""
