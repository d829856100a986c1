"""Verbs that size a training before it runs, and test the machine: memory, time, packing, a schedule on GPUs.

Each verb imports what it needs when it is called, to keep other commands fast.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from touchline.core.callbacks import MessageCallback, ProgressCallback, ignore_message
from touchline.data.requests import EstimateRequest, PackRequest
from touchline.data.shapes import load_config
from touchline.data.user_config import UserConfig
from touchline.experiment.requests import Cluster, OptimiseRequest, PlaceRequest
from touchline.results.collect import collect_results
from touchline.results.scored import own_item_scores
from touchline.run.folders import ExperimentFolder
from touchline.run.loaded_plan import read_planned, read_started, selected
from touchline.run.plan_checks import refuse_absent
from touchline.slurm.local.commands import RealCommands

if TYPE_CHECKING:
    from touchline.core.estimate import PackingSummary
    from touchline.data.packing.assign import Handoff
    from touchline.data.packing.forecast import IsolationCheck
    from touchline.data.requests import EstimateRequest, PackRequest
    from touchline.experiment.requests import Cluster, OptimiseRequest, PlaceRequest
    from touchline.history.probe import ProbeReport, SelftestReport
    from touchline.plan.design import DesignAnswer
    from touchline.plan.estimate_result import EstimateAnswer
    from touchline.plan.placement.problem import Placement
    from touchline.run.progress import JobProgressCallback
    from touchline.slurm.site_facts import DoctorReport
    from touchline.tools.optimising import Optimised


def estimate(request: EstimateRequest, settings: UserConfig) -> EstimateAnswer:
    """Estimate memory, the largest micro-batch and the time of a training without an experiment.

    Raises:
        InputError: options are wrong; all are listed.
    """
    from touchline.plan.local.estimating import estimate as answer

    return answer(request, settings)


def probe(
    source: Path,
    settings: UserConfig,
    *,
    run: str | None = None,
    limit_bytes: int | None = None,
    on_message: MessageCallback | None = None,
) -> ProbeReport:
    """Run real steps of a run at its longest batch on this machine: the largest micro-batch that fits, and its speed.

    Args:
        run: the run (default: the one with the most memory).
        limit_bytes: memory limit of a try (default: most of what is free).
        on_message: receives a line per try.

    Raises:
        InputError: there is no plan, no such run, or it trains nothing.
        HostError: the packages for training are not installed.
        RunsFailedError: no step succeeded.
    """
    from touchline.tools.probe_run import heaviest, probe_run

    planned = read_planned(source)
    refuse_absent(planned.plan, planned.folder)
    chosen = selected(planned.plan, run)[0] if run is not None else heaviest(planned.plan)
    return probe_run(planned, chosen, settings, limit_bytes=limit_bytes, on_message=on_message or ignore_message)


def selftest(*, on_progress: JobProgressCallback | None = None) -> SelftestReport:
    """Check this machine: losses and gradients of the trainer, isolation, resuming.

    Args:
        on_progress: receives one row, with the time left.

    Raises:
        HostError: the packages for training are not installed.
    """
    from touchline.tools.selftest import selftest as check_node

    return check_node(on_progress)


def optimize(source: Path, settings: UserConfig, request: OptimiseRequest, *, apply: bool = False) -> Optimised:
    """Suggest faster settings with equivalent results; write them only with `apply`.

    Raises:
        InputError: the experiment or the request is wrong.
    """
    from touchline.tools import optimising

    options = optimising.optimise(ExperimentFolder(source), settings, request)
    if apply:
        optimising.apply(options)
    return options


def design(
    source: Path,
    settings: UserConfig,
    *,
    detect: float = 2.0,
    budget: str | None = None,
    apply: bool = False,
    on_progress: ProgressCallback | None = None,
) -> DesignAnswer:
    """Find the numbers of seeds and items that show a difference, and what they cost.

    Args:
        detect: difference between two levels to establish with 80% power, in points.
        budget: device-hours to use best: `40gpuh`, `40h`, `90min`.
        apply: write the numbers of seeds and items into experiment.yaml.
        on_progress: receives the number of plans made and their total.

    Raises:
        InputError: the experiment or an option is wrong, or there is nothing to apply.
        PolicyError: the experiment has a strategy, or runs have started that the change would alter.
    """
    from touchline.tools import designing

    folder = ExperimentFolder(source)
    old = folder.read_plan()
    own = () if old is None else own_item_scores(collect_results(old, folder.root))
    found = designing.design(folder, settings, own, detect_points=detect, budget=budget, on_progress=on_progress)
    if apply:
        found = designing.apply(found, settings)
    return found.answer


def place(jobs: Path, cluster: Cluster, deadline: str | float | None) -> Placement:
    """Schedule the jobs of a file on GPUs against a deadline, such as `6h` or its minutes.

    Raises:
        InputError: the file, the jobs, the cluster or the deadline are wrong; all errors are listed.
    """
    from touchline.plan.local.job_list import parse_deadline, read_jobs
    from touchline.plan.placement.placing import place as place_jobs

    minutes = parse_deadline(deadline) if isinstance(deadline, str) else deadline
    return place_jobs(read_jobs(jobs), cluster, deadline_minutes=minutes)


def place_experiment(
    source: Path, settings: UserConfig, request: PlaceRequest
) -> tuple[Placement, list[Path], list[str]]:
    """Schedule the unfinished jobs of an experiment, and write the scripts that the request asks for.

    Returns:
        The schedule, the files written (the one to submit first), and notes.

    Raises:
        InputError: there is no plan, nothing is left, or the cluster is too small for a job.
    """
    from touchline.api.running import prepare
    from touchline.run.allocation import carry_out

    planned = read_started(source)
    if request.writes_script or not any(model.absent for model in planned.plan.models.values()):
        # Without scripts, a schedule needs no models on this machine.
        prepare(source, settings)
        planned = read_started(source)
    return carry_out(planned, settings.slurm, request)


def pack(request: PackRequest, settings: UserConfig, *, on_progress: ProgressCallback | None = None) -> PackingSummary:
    """Compare packed and unpacked batching of a dataset by a trainer.

    Raises:
        InputError: the lengths are unknown or not usable.
    """
    from touchline.plan.local.packing import assume_lengths, compare

    lengths, assumed = assume_lengths(request, settings, on_progress)
    return compare(request, lengths, assumed)


def pack_write(
    request: PackRequest, to: Path, settings: UserConfig, *, on_progress: ProgressCallback | None = None
) -> Handoff:
    """Write the training examples in the order of the packed sequences, for trainers that pack by next-fit.

    Raises:
        InputError: the lengths are not usable, or an example is longer than a sequence.
    """
    from touchline.plan.local.packing import load_lengths, write_in_packs

    return write_in_packs(request, to, load_lengths(request, settings, on_progress))


def pack_check_isolation(model: str, settings: UserConfig) -> IsolationCheck:
    """Test for attention leaks between packed examples in a model's architecture.

    Raises:
        InputError: there is no such model, or its architecture cannot be instantiated.
        HostError: the packages for training are not installed.
    """
    from touchline.plan.local.packing import check_isolation

    return check_isolation(load_config(model, settings.models_dir))


def doctor(folder: Path, settings: UserConfig) -> DoctorReport:
    """Check Python, folders, GPUs, SLURM and the settings; change nothing."""
    from touchline.tools.doctor import run_doctor

    return run_doctor(settings, folder, RealCommands())
