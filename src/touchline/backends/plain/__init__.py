"""A hand-written training loop on transformers and PEFT."""
