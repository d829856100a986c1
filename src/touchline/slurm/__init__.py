"""Formats of SLURM: job scripts, the output of its commands, and the lines it writes to logs."""
