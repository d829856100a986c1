"""From what was measured to what will be: memory, time, disk and batch size, with intervals. Pure; no torch."""
