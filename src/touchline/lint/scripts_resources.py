"""Rules on a job's requested resources against its commands: GPUs, processes, cores, memory."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from touchline.backends.registry import launch_commands, traits_of
from touchline.core.finding import Severity
from touchline.experiment.partial import StatedTraining
from touchline.lint.rule import Violation, rule
from touchline.lint.views import ScriptView, said
from touchline.slurm.launches import Launch
from touchline.slurm.shell_words import ShellWord

_SITE_DECIDES = ("partition", "nodelist", "exclusive", "constraint", "reservation", "account", "qos", "licenses")
_ON_GPU = re.compile(
    r"\bCUDA_VISIBLE_DEVICES=[\"']?\d|--device[= ]cuda|\bnvidia-smi\b|module\s+(?:load|add)\s+[^\n#]*\bcuda", re.I
)
_VISIBLE = re.compile(r"\d{1,3}(?:,\d{1,3})*")
_SPREADS = re.compile(
    r"\b(?:srun|mpirun|mpiexec|pdsh|ssh|torchrun|accelerate|ray|parallel|nnodes|horovodrun|clush|dask"
    rf"{''.join(f'|{re.escape(each.name)}' for each in launch_commands() if each.starts_any)})\b"
    r"|SLURM_(?:NODELIST|JOB_NODELIST|NNODES)|torch\.distributed"
)
_MEGABYTES = re.compile(r"(\d{1,3})M?")
_NO_RESOURCE = 0.6
_FEW = 512
"""Megabytes that are too few for any training."""
_NEARLY_GPU = (sorted("gpu"), sorted("gpus"), sorted("gppu"))
_NODES = ("nnodes", "num_machines", "num_nodes")


def _number(view: ScriptView, launch: Launch) -> int | None:
    """Return the processes that a launch starts per node, if it states a number."""
    text = view.script.resolved(launch.nproc)
    return int(text) if text is not None and re.fullmatch(r"[1-9]\d{0,3}", text) else None


def _visible(view: ScriptView) -> list[tuple[ShellWord, tuple[int, ...]]]:
    """Return the words that set CUDA_VISIBLE_DEVICES, each with its GPUs; none of a value that is not a list."""
    found: list[tuple[ShellWord, tuple[int, ...]]] = []
    for step in view.script.steps:
        for word in (*(word for _, word in step.command.assignments), *step.command.words[1:]):
            name, _, value = word.text.partition("=")
            if name == "CUDA_VISIBLE_DEVICES" and value:
                numbers = value.split(",") if _VISIBLE.fullmatch(value) else ()
                found.append((word, tuple(int(number) for number in numbers)))
    return found


def _named_configs(view: ScriptView, launch: Launch) -> list[StatedTraining]:
    """Return the trainings whose configs a launch names."""
    paths = [path for reference in launch.configs for path in view.script.possible(reference.path)]
    names = {path.rpartition("/")[2] for path in paths}
    return [config for config in view.configs if config.where.path.rpartition("/")[2] in names]


@rule("SL013", Severity.WARNING)
def training_without_gpu(view: ScriptView) -> Iterator[Violation]:
    """Report a job that trains and asks for no GPU."""
    script = view.script
    if not script.directives or view.requested.gpu_directive is not None or script.is_heterogeneous:
        return
    late = any(each.option in ("gres", "gpus", "gpus-per-node", "gpus-per-task") for each in script.late)
    if late or any(script.asked(name) for name in ("gres", "gpus-per-socket", "tres-per-task", "bb", "ntasks-per-gpu")):
        return
    if any(directive.fault is not None for directive in script.directives):
        return
    launch = next(
        (training for training in view.trainings if training.is_training or (_number(view, training) or 1) > 1), None
    )
    if launch is None:
        return
    certain = _ON_GPU.search(script.text) is not None or (_number(view, launch) or 1) > 1
    decides = next((f"--{name}" for name in _SITE_DECIDES if script.asked(name)), None)
    unsure = "" if decides is None else f", unless {decides} brings some"
    yield Violation(
        message=f"the job trains (line {launch.line}) without requesting a GPU{unsure}",
        at=script.where(script.directives[-1].line),
        hint="#SBATCH --gres=gpu:1",
        subject="gres",
        severity=None if certain and decides is None else Severity.INFO,
    )


@rule("SL014", Severity.WARNING)
def zero_gpus(view: ScriptView) -> Iterator[Violation]:
    """Report a job that trains and asks for zero GPUs."""
    directive = view.requested.gpu_directive
    if directive is None or not view.trainings or not re.search(r"(?:^|[:=])0+$", directive.value or ""):
        return
    yield Violation(
        message=f"{directive.written}={directive.value} gives no GPU, and line {view.trainings[0].line} trains",
        at=said(view, directive),
        hint="--gres=gpu:1",
    )


@rule("SL015", Severity.INFO)
def no_memory_request(view: ScriptView) -> Iterator[Violation]:
    """Report a job with a GPU that asks for no memory."""
    script = view.script
    directive = view.requested.gpu_directive
    if directive is None or not view.trainings or view.requested.has_whole_nodes or script.is_heterogeneous:
        return
    given = {each.option for each in (*script.directives, *script.late)}
    if given & {"mem", "mem-per-cpu", "mem-per-gpu", "exclusive"} or "touchline.run" in script.text:
        return
    yield Violation(
        message="no memory is requested; the site's default may be too small to load the model",
        at=script.where(directive.line),
        hint="#SBATCH --mem=..., at least twice the size of the weights",
        subject="mem",
    )


@rule("SL016", Severity.ERROR)
def more_processes_than_gpus(view: ScriptView) -> Iterator[Violation]:
    """Report a launcher with more processes per node than GPUs."""
    asked = view.requested
    directive = asked.gpu_directive
    if directive is None or not asked.gpus_per_node or view.script.is_heterogeneous:
        return
    for launch in view.trainings:
        count = _number(view, launch)
        backend = launch.options.get("backend") or launch.arguments.get("backend")
        on_processor = backend is not None and backend.text == "gloo"
        if count is None or launch.nproc is None or count <= asked.gpus_per_node or on_processor:
            continue
        own = "CUDA_VISIBLE_DEVICES=" in view.script.text or asked.has_whole_nodes
        yield Violation(
            message=f"{launch.launcher} starts {count} processes on each node, and the job has {asked.gpus_per_node}"
            f" GPU{'s' * (asked.gpus_per_node > 1)} there (--{directive.option}={directive.value})",
            at=view.script.where(launch.nproc.line, launch.nproc.column),
            hint=f"--nproc_per_node={asked.gpus_per_node}, or --{directive.option} for {count}",
            subject="nproc_per_node",
            severity=Severity.WARNING if own else None,
        )


@rule("SL017", Severity.INFO)
def idle_gpus(view: ScriptView) -> Iterator[Violation]:
    """Report a job with more GPUs than its only training uses."""
    asked = view.requested
    script = view.script
    if asked.gpu_directive is None or not asked.gpus_per_node or asked.has_whole_nodes or script.is_heterogeneous:
        return
    visible = _visible(view)
    if len(visible) == len(script.launches) == 1 and 0 < len(visible[0][1]) < asked.gpus_per_node:
        yield Violation(
            message=f"CUDA_VISIBLE_DEVICES leaves {len(visible[0][1])} of the {asked.gpus_per_node} GPUs that the job"
            " has",
            at=script.where(visible[0][0].line),
            hint="leave CUDA_VISIBLE_DEVICES to SLURM",
            subject="CUDA_VISIBLE_DEVICES",
        )
        return
    if len(view.trainings) != 1 or len(script.launches) != 1 or view.trainings[0].nproc is None:
        return
    (launch,) = view.trainings
    count = _number(view, launch)
    background = any(step.is_background for step in script.steps)
    # With srun before it, the launcher may run several times.
    if count is None or launch.nproc is None or count >= asked.gpus_per_node or background or launch.srun is not None:
        return
    yield Violation(
        message=f"{launch.launcher} starts {count} processes per node, but it has {asked.gpus_per_node} GPUs there",
        at=script.where(launch.nproc.line, launch.nproc.column),
        hint=f"--nproc_per_node={asked.gpus_per_node}",
        subject="nproc_per_node",
    )


@rule("SL018", Severity.WARNING)
def launcher_in_every_task(view: ScriptView) -> Iterator[Violation]:
    """Report a launcher that `srun` starts once per task."""
    tasks = view.requested.tasks_per_node
    if tasks is None or tasks < 2 or view.script.is_heterogeneous:
        return
    for launch in view.trainings:
        count = _number(view, launch)
        if launch.launcher not in ("torchrun", "accelerate") or launch.srun is None or (count or 2) < 2:
            continue
        if any(name in launch.srun for name in ("ntasks", "ntasks-per-node", "tasks-per-node", "nodes")):
            continue
        yield Violation(
            message=f"srun starts {launch.launcher} in each of the {tasks} tasks of a node"
            + (f", {tasks} x {count} processes in total" if count else ""),
            at=view.script.where(launch.line),
            hint="#SBATCH --ntasks-per-node=1 with --cpus-per-task for its cores",
            subject="ntasks-per-node",
        )


@rule("SL019", Severity.WARNING)
def training_in_every_task(view: ScriptView) -> Iterator[Violation]:
    """Report a training that `srun` starts once per task without dividing the work."""
    asked = view.requested
    if view.script.is_heterogeneous or _RANKS.search(view.script.text):
        return
    for launch in view.script.launches:
        if launch.srun is None or not launch.is_training or launch.is_launched:
            continue
        if any(name in launch.srun for name in ("multi-prog", "overlap")):
            continue
        tasks = _tasks(view, launch)
        own = launch.launcher != "python"
        if tasks is None or tasks < 2:
            continue
        crowded = asked.gpus_per_node is not None and 0 < asked.gpus_per_node < tasks
        if not (own or crowded or _is_of_transformers(view, launch)):
            continue
        if launch.nproc is not None:
            continue  # with a launcher's options it is one, and SL018 speaks of it
        gpus = asked.gpus_per_node
        on = " on one GPU" if gpus == 1 else "" if gpus is None else f", each with all {gpus} GPUs" if own else ""
        yield Violation(
            message=f"srun starts this training {tasks} times{on}; cores are requested by --cpus-per-task",
            at=view.script.where(launch.line),
            hint=f"#SBATCH --ntasks=1 and #SBATCH --cpus-per-task={tasks}"
            + ("" if own or gpus is None or gpus < 2 else f", and torchrun --nproc_per_node={gpus}"),
            subject="ntasks",
            severity=Severity.ERROR if own else None,
        )


_RANKS = re.compile(
    r"SLURM_(?:PROCID|LOCALID|NTASKS|NODEID)|(?:LOCAL|NODE)_RANK|NNODES|\bRANK=|WORLD_SIZE|MASTER_|--mpi\b|\bmpirun\b"
)
"""Patterns in scripts that give each task its rank."""
_HF_ARGUMENTS = frozenset(
    {
        *("per_device_train_batch_size", "model_name_or_path", "num_train_epochs", "gradient_accumulation_steps"),
        *("dataloader_num_workers", "save_total_limit", "lora_r"),
    }
)
"""Arguments of transformers' Trainer, which takes its rank only from a launcher."""


def _tasks(view: ScriptView, launch: Launch) -> int | None:
    """Return how often srun starts a command: by its own options, else by the job's."""
    assert launch.srun is not None
    for name in ("ntasks", "ntasks-per-node", "tasks-per-node"):
        if name in launch.srun:
            text = launch.srun[name] or ""
            return int(text) if re.fullmatch(r"\d{1,4}", text) else None
    if "nodes" in launch.srun and launch.srun["nodes"] != "1":
        return None
    asked, whole = view.requested, view.script.value("ntasks") or ""
    if asked.nodes is not None and asked.nodes > 1 and "nodes" not in launch.srun:
        return int(whole) if re.fullmatch(r"\d{1,4}", whole) else asked.nodes * (asked.tasks_per_node or 1)
    return asked.tasks_per_node


def _is_of_transformers(view: ScriptView, launch: Launch) -> bool:
    """Return True if a program trains with transformers' Trainer, based on its arguments or its config."""
    if _HF_ARGUMENTS & launch.arguments.keys():
        return True
    return any(traits_of(each.backend).hf_loop for each in _named_configs(view, launch))


@rule("SL020", Severity.WARNING)
def more_data_workers_than_cores(view: ScriptView) -> Iterator[Violation]:
    """Report trainings whose data workers together outnumber the job's cores."""
    script = view.script
    cores = _requested_cores(view) or view.around.cpus
    if cores is None or script.is_heterogeneous:
        return
    at_once: list[tuple[Launch, int]] = []
    chains: set[int] = set()
    for launch in view.script.launches:
        workers = _workers(view, launch)
        processes = _number(view, launch) or (view.requested.gpus_per_node if launch.launcher != "python" else 1) or 1
        if workers is None:
            continue
        total = workers * processes
        if total > cores:
            yield _too_many(view, launch, f"{workers} data workers in each of {processes} processes", total, cores)
            return
        chain = _chain(launch)
        if chain is not None and chain not in chains:
            chains.add(chain)
            at_once.append((launch, total))
    together = sum(total for _, total in at_once)
    if together > cores:
        launch = at_once[-1][0]
        yield _too_many(view, launch, f"{len(at_once)} trainings at once with their data workers", together, cores)


def _requested_cores(view: ScriptView) -> int | None:
    """Return the cores that a job asks for on each node; None if the site decides."""
    if view.requested.has_whole_nodes or not any(view.script.asked(name) for name in ("cpus-per-task", "cpus-per-gpu")):
        return None
    return view.requested.cpus_per_node


def _chain(launch: Launch) -> int | None:
    """Return the line of the background job that a launch belongs to. None if the script waits for it."""
    for pipeline in (*(pipeline for pipeline, _ in launch.step.parents), launch.step.pipeline):
        if pipeline.is_background:
            return pipeline.line
    return None


def _workers(view: ScriptView, launch: Launch) -> int | None:
    text = view.script.resolved(launch.data_workers)
    if text is not None and re.fullmatch(r"\d{1,4}", text):
        return int(text)
    counts = [each.data_workers.value for each in _named_configs(view, launch) if each.data_workers is not None]
    return max(counts, default=None)


def _too_many(view: ScriptView, launch: Launch, what: str, total: int, cores: int) -> Violation:
    return Violation(
        message=f"{what} make {total} processes on {cores} cores",
        at=view.script.where(launch.line),
        hint=f"at most {cores} in total, or more --cpus-per-task",
        subject="data workers",
    )


@rule("SL057", Severity.WARNING)
def unused_nodes(view: ScriptView) -> Iterator[Violation]:
    """Report several nodes of which every command uses the first alone."""
    nodes = view.script.asked("nodes")
    launches = view.script.launches
    if nodes is None or nodes.value is None or not nodes.value.isdecimal() or int(nodes.value[:6]) < 2 or not launches:
        return
    plain = all(launch.program is not None and launch.program.text.endswith(".py") for launch in launches)
    if plain and view.trainings and not _SPREADS.search(view.script.text):
        message = f"{nodes.value} nodes are requested, but every command runs on the first"
        yield Violation(message=message, at=said(view, nodes), hint="#SBATCH --nodes=1")


@rule("SL058", Severity.ERROR)
def memory_in_megabytes(view: ScriptView) -> Iterator[Violation]:
    """Report a memory request whose unit was probably forgotten."""
    for option in ("mem", "mem-per-gpu", "mem-per-cpu"):
        asked = view.script.asked(option)
        match = _MEGABYTES.fullmatch(asked.value or "") if asked is not None else None
        if asked is not None and match is not None and 0 < int(match[1]) < _FEW and view.trainings:
            message = f"--{option}={asked.value} is {int(match[1])} megabytes"
            severity = None if option == "mem" else Severity.WARNING
            yield Violation(message=message, at=said(view, asked), hint=f"--{option}={match[1]}G", severity=severity)


@rule("SL059", Severity.ERROR)
def misspelled_gres(view: ScriptView) -> Iterator[Violation]:
    """Report a `--gres` resource that is nearly `gpu`."""
    asked = view.script.asked("gres")
    if asked is None or asked.value is None:
        return
    for part in asked.value.split(","):
        name = part.partition(":")[0].strip()
        if name.isalpha() and name != "gpu" and sorted(name.casefold()) in _NEARLY_GPU:
            near = difflib.SequenceMatcher(None, name, "gpu").ratio() >= _NO_RESOURCE
            if near:
                yield Violation(
                    message=f"--gres={part}: expected gpu", at=said(view, asked), hint=f"--gres=gpu{part[3:]}"
                )


@rule("SL060", Severity.WARNING)
def more_visible_gpus_than_requested(view: ScriptView) -> Iterator[Violation]:
    """Report `CUDA_VISIBLE_DEVICES` with GPUs that the job does not have."""
    asked = view.requested
    if asked.gpu_directive is None or not asked.gpus_per_node or asked.has_whole_nodes or view.script.is_heterogeneous:
        return
    counts = [view.script.resolved(launch.nproc) or "" for launch in view.trainings]
    if any(count.isdecimal() and int(count[:6]) > asked.gpus_per_node for count in counts):
        # The finding on processes already covers it.
        return
    for word, numbers in _visible(view):
        if numbers and max(numbers) >= asked.gpus_per_node:
            yield Violation(
                message=f"{word.text}, and the job has {asked.gpus_per_node}"
                f" GPU{'s' * (asked.gpus_per_node > 1)}, counted from 0",
                at=view.script.where(word.line, word.column),
                hint="leave CUDA_VISIBLE_DEVICES to SLURM",
            )
            return


@rule("SL062", Severity.ERROR)
def node_count_mismatch(view: ScriptView) -> Iterator[Violation]:
    """Report a launcher that waits for another number of nodes than the job has."""
    nodes = view.requested.nodes
    if nodes is None or view.script.is_heterogeneous or view.script.asked("nodes") is None:
        return
    for launch in view.trainings:
        word = next((found for name in _NODES if (found := launch.options.get(name)) is not None), None)
        text = view.script.resolved(word)
        if word is not None and text is not None and text.isdecimal() and int(text[:6]) > nodes:
            yield Violation(
                message=f"{launch.launcher} waits for {text} nodes, and the job has {nodes}",
                at=view.script.where(word.line, word.column),
                hint="--nnodes=$SLURM_NNODES",
                subject="nnodes",
            )
