"""Chains of jobs on GPUs before a deadline: how long they take, whether it fits, and in which order to start them."""
