"""The default trainer: LoRA on transformers and PEFT, a process of its own (`python -m touchline.train`)."""
