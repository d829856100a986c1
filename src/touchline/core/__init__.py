"""Values and helpers of every room: errors, files, units, quantities, findings, estimates and observations."""
