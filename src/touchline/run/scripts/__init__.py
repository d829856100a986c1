"""The texts of an experiment's folder and of its runs', as values; `api.prepare` puts them on disk."""
