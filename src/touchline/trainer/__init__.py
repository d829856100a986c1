"""The default trainer: LoRA on transformers and PEFT, started as a process of its own (`python -m touchline.trainer`)."""
