"""Statistics of evaluations: intervals, paired tests, factor effects, power. Pure functions on scores."""
