"""Ways in for coding agents: skills, which are texts that name touchline's commands, and an MCP server with tools.

In: a folder, or calls of tools. Out: one folder per skill with a SKILL.md; answers in the keys of `--json`, shortened.
Neither states a fact that a command computes. The server executes only what `run/budget.py` lets through.
"""
