"""Command `python -m touchline.train [--config finetune.yaml] [--folder DIR] [--with DIR]...`, run in a run folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from touchline.data.worker import bitsandbytes_left_out
from touchline.train.attempt import Stop
from touchline.train.inputs import read_config
from touchline.train.process import exit_code_of, run_cohort, run_training


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m touchline.train", description="Train one run.")
    parser.add_argument("--config", type=Path, default=Path("finetune.yaml"), help="relative to the folder")
    parser.add_argument("--folder", type=Path, default=Path(), help="the run's folder (default: this one)")
    parser.add_argument(
        "--with", type=Path, action="append", default=[], dest="further", help="folder of another run of the cohort"
    )
    options = parser.parse_args(arguments)
    folders = [options.folder.absolute(), *((options.folder / other).resolve() for other in options.further)]

    def train(stop: Stop, folder: Path) -> bool:
        config = read_config(folder / options.config)
        with bitsandbytes_left_out(unless=arguments is not None or config.train.uses_bitsandbytes):
            if len(folders) > 1:
                return run_cohort(folders, stop, str(options.config))
            return run_training(config, folder, stop, str(options.config))

    return exit_code_of(train, folders[0])


if __name__ == "__main__":
    sys.exit(main())
