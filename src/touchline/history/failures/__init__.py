"""Lines on how a run ended that no trainer prints: exceptions, memory, disk, signals, hand-written milestones."""
