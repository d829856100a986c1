"""Commands: parse, call a verb of `api`, print."""
