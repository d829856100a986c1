"""Import of other tools' experiments to a commented experiment.yaml, and what could not be carried over."""
