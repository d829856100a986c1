"""What is on disk: models, datasets, the user's settings; read without torch."""
