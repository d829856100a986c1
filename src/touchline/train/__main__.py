"""Command `python -m touchline.train [--config finetune.yaml] [--folder DIR] [--with DIR]...`, run in a run folder.

With `--with` it trains further runs side by side on the same base, as a cohort.

`touchline.train.process` lists its exit codes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from touchline.train.inputs import read_config
from touchline.train.process import exit_code_of
from touchline.train.run import run_cohort, run_training


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m touchline.train", description="Train one run.")
    parser.add_argument("--config", type=Path, default=Path("finetune.yaml"), help="relative to the folder")
    parser.add_argument("--folder", type=Path, default=Path(), help="the run's folder (default: this one)")
    parser.add_argument(
        "--with", type=Path, action="append", default=[], dest="further", help="folder of another run of the cohort"
    )
    options = parser.parse_args(arguments)
    if options.further:
        return exit_code_of(
            lambda stop, folder: run_cohort(
                [folder, *((folder / other).resolve() for other in options.further)], stop, str(options.config)
            ),
            options.folder.absolute(),
        )
    return exit_code_of(
        lambda stop, folder: run_training(read_config(folder / options.config), folder, stop, str(options.config)),
        options.folder.absolute(),
    )


if __name__ == "__main__":
    sys.exit(main())
