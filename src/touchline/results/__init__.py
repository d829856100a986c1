"""What came out of the runs, read from their folders."""
