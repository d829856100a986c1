"""Interview: the questions of `touchline init`, their defaults from evidence, and templates with example data."""
