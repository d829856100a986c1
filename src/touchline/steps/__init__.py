"""What the verbs of `workflow` are made of."""
