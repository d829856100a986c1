"""OLMo and OLMo-core (Ai2)."""
