"""experiment.yaml to an `Experiment`, and an `Experiment` to its runs."""
