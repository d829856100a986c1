"""Commands: parse, call a verb of `workflow`, print."""
