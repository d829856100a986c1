"""The parts of `results.verification`: one look at a checkpoint each."""
