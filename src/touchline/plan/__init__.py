"""Planning: an experiment, its data and estimates in; a `Plan` of resolved runs with hashes out, before anything
runs.

Nothing is imported here, so that `status` reads the plan of a thousand runs without loading the planner.
"""
