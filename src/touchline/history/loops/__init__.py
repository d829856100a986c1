"""Training loops without a reader of their own: rows, bars with losses, printed facts, dumped settings."""
