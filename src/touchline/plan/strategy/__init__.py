"""Strategy of a plan: its phases, costs, decisions and state."""
