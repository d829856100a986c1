"""verl (volcengine)."""
