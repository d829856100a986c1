"""The default backend: touchline's own small loop on transformers and PEFT."""
