"""The texts of a run's folder, as values; `workflow.prepare` puts them on disk."""

from touchline.scaffold.folder import Site, run_files
from touchline.scaffold.shell import SlurmValueFault, quote, slurm_value

__all__ = ["Site", "SlurmValueFault", "quote", "run_files", "slurm_value"]
