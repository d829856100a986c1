"""Numbers of seeds and items that a design needs, what they show and what they cost."""
