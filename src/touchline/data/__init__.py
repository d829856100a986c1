"""Models, datasets and the user's settings on disk, and rendering and packing of examples. Paths in, verified
descriptions, tokens and scores out; torch is never loaded."""
