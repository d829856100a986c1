"""Interview: the questions of `touchline init`, and their defaults from the data and this machine."""
