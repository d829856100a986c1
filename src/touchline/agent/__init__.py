"""Ways in for coding agents: skills, which are texts that name touchline's commands.

In: a folder. Out: one folder per skill with a SKILL.md. A skill states no fact that a command computes.
"""
