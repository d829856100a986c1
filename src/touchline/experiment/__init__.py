"""Reading experiment.yaml into an `Experiment`, expanding it into runs, and the tasks that score answers."""
