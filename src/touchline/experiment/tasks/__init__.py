"""Ready-made tasks: a prompt, scorers, and for some a generator of data; plain functions, no model and no file."""
