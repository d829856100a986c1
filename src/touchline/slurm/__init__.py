"""What SLURM writes: its own lines in a job's output."""
