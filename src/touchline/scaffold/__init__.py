"""The texts of an experiment's folder and of its runs', as values; `workflow.prepare` puts them on disk."""

from touchline.domain.site import Site
from touchline.scaffold.experiment import experiment_files
from touchline.scaffold.folder import run_files
from touchline.scaffold.shell import SlurmValueFault, quote, slurm_value

__all__ = ["Site", "SlurmValueFault", "experiment_files", "quote", "run_files", "slurm_value"]
