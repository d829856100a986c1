"""Which examples go together, on lengths alone."""
