"""Entry point of job scripts that version 0.1.0 wrote: `python -m touchline.trainer`."""
