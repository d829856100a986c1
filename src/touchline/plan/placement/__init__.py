"""Placement: schedules chains of jobs on GPUs before a deadline, with the chance to meet it."""
