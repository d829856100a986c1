"""The texts of an experiment's folder and of its runs', as values; `workflow.prepare` puts them on disk."""
