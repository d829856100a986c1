"""Any log or state file becomes events, events become readings, readings become records of what runs taught."""
