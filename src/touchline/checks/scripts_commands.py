"""Rules for what a job's commands rely on: its own place, its environment, checkpoints, caches; and secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator

from touchline.checks.rule import Fault, rule
from touchline.checks.script_view import ScriptView
from touchline.checks.scripts_endings import stops_at_errors
from touchline.domain.finding import Severity
from touchline.slurmtext.script import Script
from touchline.slurmtext.shell import Simple, Step

_LOOKED_AT = 40
"""Commands of one kind that are looked at, each of which is compared with the whole script."""


_OWN_PLACE = re.compile(
    r"(?:dirname|realpath|readlink)\b[^|;]*?\$\{?(?:BASH_SOURCE|0)(?!\w)|\$\{(?:BASH_SOURCE(?:\[0\])?|0)%/"
)


@rule("SL042", Severity.WARNING)
def place_of_the_script(view: ScriptView) -> Iterator[Fault]:
    """A job script looks for its own folder with `$0` or `BASH_SOURCE`.

    Why: SLURM runs a copy of the script from its spool folder (`.../job00123/slurm_script`), so that is the folder that
    is found, and nothing beside the script is there.

    Fix: `cd "$SLURM_SUBMIT_DIR"`, or `#SBATCH --chdir=/path`.

    Bad: sbatch
        #!/bin/bash
        #SBATCH -t 04:00:00
        #SBATCH --gres=gpu:1
        cd "$(dirname "$0")"
        python train.py

    Good: sbatch
        #!/bin/bash
        #SBATCH -t 04:00:00
        #SBATCH --gres=gpu:1
        cd "$SLURM_SUBMIT_DIR"
        python train.py
    """
    script = view.script
    if not script.directives or re.search(r"SLURM_SUBMIT_DIR|scontrol\s+show|SLURM_JOB_SCRIPT|sbatch\s", script.text):
        return
    for step in script.steps:
        words = [*(word for _, word in step.command.assignments), *step.command.words]
        found = next((word for word in words if _OWN_PLACE.search(word.raw)), None)
        guarded = step.in_condition or set(step.kinds) & {"if", "case", "function"} or step.command.name == "echo"
        if found is not None and not guarded and not re.search(r":-|-\$\(", found.raw.split("dirname")[0]):
            yield Fault(
                message="sbatch runs a copy of the script in its spool folder, so this is not the folder of the script",
                at=script.where(found.line, found.column),
                hint='cd "$SLURM_SUBMIT_DIR"',
                subject="$0",
                severity=Severity.ERROR if step.command.name == "cd" and _names_beside(script) else None,
            )
            return


def _names_beside(script: Script) -> bool:
    """Whether a program that it starts is named by a relative path."""
    programs = [launch.program.text for launch in script.launches if launch.program is not None]
    return any(name.endswith(".py") and not name.startswith(("/", "~", "$")) for name in programs)


_SECRETS = (
    ("a Hugging Face token", re.compile(r"\bhf_[A-Za-z0-9]{30,40}\b")),
    ("an OpenAI key", re.compile(r"\bsk-(?:proj-)?[A-Za-z0-9_-]{32,}\b")),
    ("an Anthropic key", re.compile(r"\bsk-ant-[A-Za-z0-9_-]{24,}\b")),
    ("a GitHub token", re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{40,})\b")),
    ("an AWS key", re.compile(r"\bAKIA[A-Z0-9]{16}\b")),
    ("a Weights & Biases key", re.compile(r"(?:WANDB_API_KEY=|wandb\s+login\s+(?:--\S+\s+)*)[\"']?([0-9a-f]{40})\b")),
    ("a Weights & Biases key", re.compile(r"\bwandb_v1_[A-Za-z0-9_]{40,}\b")),
    ("a Slack token", re.compile(r"\bxox[abpr]-[A-Za-z0-9-]{20,}\b")),
)
_MADE_UP = re.compile(r"(.)\1{7}|x{4}|your|example|placeholder", re.IGNORECASE)


@rule("SL043", Severity.WARNING)
def secret_in_the_script(view: ScriptView) -> Iterator[Fault]:
    """A token or key is written into the script.

    Why: SLURM keeps a copy of every job script that administrators can read, and scripts are shared and committed.

    Fix: make it invalid where it was issued; keep the new one in a file that only you can read, and
    `export HF_TOKEN="$(cat ~/.hf_token)"`, or use the tool's own login.

    Bad: sbatch
        export WANDB_API_KEY=3f9a1c07b2e84d56a0c9e17f42b8d3650fa91c7e

    Good: sbatch
        export WANDB_API_KEY="$(cat ~/.wandb_key)"
    """
    script = view.script
    for number, line in enumerate(script.lines, 1):
        if len(line) > 2000:
            continue
        for what, pattern in _SECRETS:
            match = pattern.search(line)
            if match is not None and not _MADE_UP.search(match[0].partition("=")[2] or match[0]):
                yield Fault(
                    message=f"{what} stands in the script for everybody to read",
                    at=script.where(number, match.start() + 1),
                    hint="make it invalid where it was issued, and read the new one from a private file",
                    subject="secret",
                )
                break


@rule("SL044", Severity.INFO)
def conda_without_its_setup(view: ScriptView) -> Iterator[Fault]:
    """`conda activate` in a script that has not set conda up.

    Why: a job's shell is not interactive, so `~/.bashrc` is not read and `conda` may not be a function in it; the job
    goes on with another Python.

    Fix: `source "$(conda info --base)/etc/profile.d/conda.sh"` before it, or `eval "$(conda shell.bash hook)"`.

    Bad: sbatch
        #!/bin/bash
        #SBATCH -t 04:00:00
        #SBATCH --gres=gpu:1
        conda activate llm
        python train.py

    Good: sbatch
        #!/bin/bash
        #SBATCH -t 04:00:00
        #SBATCH --gres=gpu:1
        source /opt/conda/etc/profile.d/conda.sh
        conda activate llm
        python train.py
    """
    script = view.script
    if not script.directives or re.match(r"#!.*(?:\s-\w*[li]|--login)", script.lines[0]):
        return
    ready = False
    for step in script.steps:
        command = step.command
        text = command.text
        if re.search(
            r"conda\.sh|mamba\.sh|shell\.(?:bash|zsh|posix)|shell hook|bashrc|bash_profile|\.profile|zshrc", text
        ):
            ready = True
        if command.name in ("module", "ml", "source", ".", "eval", "spack", "use") or "conda init" in text:
            ready = True
        if command.name in ("conda", "mamba", "micromamba") and [each.text for each in command.words[1:2]] == [
            "activate"
        ]:
            if not ready and not stops_at_errors(script):
                yield Fault(
                    message=f"nothing before this sets {command.name} up for a shell that is not interactive",
                    at=script.where(command.line, command.column),
                    hint='eval "$(conda shell.bash hook)"',
                    subject="conda activate",
                )
            return


@rule("SL045", Severity.INFO)
def requeue_that_begins_anew(view: ScriptView) -> Iterator[Fault]:
    """`--requeue` in a job that nowhere speaks of going on from a checkpoint.

    Why: after a preemption or a dead node the script runs again from its first line, and a training without resume
    starts over, perhaps in a folder that has checkpoints already.

    Fix: let the training resume from its newest checkpoint, or `#SBATCH --no-requeue`.

    Bad: sbatch
        #SBATCH --requeue

    Good: sbatch
        #SBATCH --no-requeue
    """
    script = view.script
    directive = script.asked("requeue")
    if directive is None or script.asked("no-requeue") is not None or not view.trainings:
        return
    body = "\n".join(line for line in script.lines if not line.startswith("#SBATCH"))
    speaks = r"resum|checkpoint|ckpt|RESTART_COUNT|restart|last\b|latest|snapshot|touchline|requeue|preempt|continue"
    if re.search(speaks, body, re.IGNORECASE) or any(each.resume is not None for each in view.configs):
        return
    yield Fault(
        message="the job may be started again, and nothing in it goes on from a checkpoint",
        at=script.where(directive.line, directive.column),
        hint="--no-requeue, or a training that resumes",
        subject="requeue",
    )


@rule("SL046", Severity.WARNING)
def config_changed_in_place(view: ScriptView) -> Iterator[Fault]:
    """`sed -i` changes a config file while the job runs.

    Why: other jobs that read the same file train with the changed one, a job that is started again changes it twice,
    and afterwards nobody can tell what was trained.

    Fix: write a changed copy, `sed ... base.yaml > "$RUN/config.yaml"`, or give the value on the command line.

    Bad: sbatch
        sed -i "s|^prev_checkpoint:.*|prev_checkpoint: $BEST|" stage2.yaml

    Good: sbatch
        sed "s|^prev_checkpoint:.*|prev_checkpoint: $BEST|" stage2.yaml > stage2.$SLURM_JOB_ID.yaml
    """
    script = view.script
    submits = any(step.command.name == "sbatch" for step in script.steps)
    if not script.directives and not submits:
        return
    changes = [step for step in script.steps if _edits_in_place(step.command)]
    for step in changes[:_LOOKED_AT]:
        command, target = step.command, step.command.words[-1].text
        names = [name for name in script.possible(target) if _IS_CONFIG.search(name)]
        if not (names or _CALLED_CONFIG.fullmatch(target)) or _is_own_copy(script, step, target):
            continue
        if not script.directives and not _is_read_by_jobs(script, step):
            continue
        what = names[0] if len(names) == 1 else target
        yield Fault(
            message=f"{command.name} -i changes {what} for everybody who reads it",
            at=script.where(command.line, command.column),
            hint="write a changed copy for this job",
            subject=what,
        )


_IS_CONFIG = re.compile(r"\.(?:ya?ml|toml|json)$")
_CALLED_CONFIG = re.compile(r"\$\{?\w*(?:conf|cfg|yaml|yml)\w*(?:\[[^\]]*\])?\}?(?:/[\w.-]+\.ya?ml)?", re.IGNORECASE)
_OWN = re.compile(r"SLURM_|TMP|RUN|tmp|\$\$|OUT|copy|JOB")
"""What the name of a file holds that belongs to one job alone."""
_EDITORS = frozenset({"sed", "gsed", "perl", "yq"})
_PASSING_ON = frozenset({"xargs", "find", "srun", "sudo", "env"})
_IN_PLACE = re.compile(r"-[nErszp]*i(?:\.?\w*)?|--in-?place(?:=.*)?")


def _edits_in_place(command: Simple) -> bool:
    """Whether a command changes files where they are: `sed -i`, `perl -pi`, `yq -i`, also behind `xargs`."""
    texts = [word.text for word in command.words]
    if command.name in _PASSING_ON:
        start = next((index for index, text in enumerate(texts) if text in _EDITORS), None)
        texts = [] if start is None else texts[start:]
    return bool(texts) and texts[0] in _EDITORS and any(_IN_PLACE.fullmatch(text) for text in texts[1:])


def _is_read_by_jobs(script: Script, step: Step) -> bool:
    """Whether jobs are submitted behind a change that is made in a loop: they start when all changes are made."""
    loops = {group.line for _, group in step.parents if group.kind in ("for", "while")}
    names = {match[1] for line in loops if (match := re.search(r"\bfor\s+(\w+)", script.lines[line - 1])) is not None}
    target = step.command.words[-1].text
    if any(re.search(rf"\$\{{?{name}\b", target) for name in names):
        return False  # each turn of the loop has a file of its own
    beside = [each.command for each in script.steps if loops & {group.line for _, group in each.parents}]
    moved = any(each.name in ("cd", "pushd") and each.line <= step.command.line for each in beside)
    return not moved and any(each.name == "sbatch" for each in beside)


def _is_own_copy(script: Script, step: Step, target: str) -> bool:
    """Whether a file was made by this script, or its name belongs to this job alone."""
    if _OWN.search(target):
        return True
    meant = _without_braces(target)
    for each in script.steps:
        if each.command.line > step.command.line:
            break
        command = each.command
        if any(_without_braces(word.text) == meant for operator, word in command.redirects if operator.startswith(">")):
            return True
        copies = command.name in ("cp", "mv", "envsubst", "install", "ln", "tee", "rsync")
        if copies and _without_braces(command.words[-1].text) == meant:
            return True
        for name, word in command.assignments:
            if meant.startswith(f"${name}") and (_OWN.search(word.raw) or "mktemp" in word.raw):
                return True
    return False


def _without_braces(text: str) -> str:
    return text.replace("${", "$").replace("}", "")


_NEWEST = re.compile(
    r"\bls\s+(?:-\w+\s+)*-\w*t\w*\b[^|;]*(?:checkpoint|ckpt|epoch|global_step|adapter)[^|;]*(?:\|[^|;]*)?\|\s*(?:head|tail)\b"
)


@rule("SL047", Severity.WARNING)
def checkpoint_chosen_by_its_date(view: ScriptView) -> Iterator[Fault]:
    """The checkpoint to go on from is the file that was changed last.

    Why: a copy, a `touch`, a late save or an older run in the same folder has a newer date, so the wrong weights are
    taken, and the best checkpoint by validation is seldom the last written.

    Fix: choose by step, `ls -d checkpoint-* | sort -V | tail -1`, or name the checkpoint.

    Bad: sbatch
        BEST=$(ls -td out/checkpoint-* | head -1)

    Good: sbatch
        BEST=$(ls -d out/checkpoint-* | sort -V | tail -1)
    """
    script = view.script
    for number, line in enumerate(script.lines, 1):
        if not line.lstrip().startswith("#") and len(line) < 2000 and (match := _NEWEST.search(line)) is not None:
            yield Fault(
                message="the checkpoint is chosen by its date, which says nothing of its step",
                at=script.where(number, match.start() + 1),
                hint="ls -d checkpoint-* | sort -V | tail -1",
                subject="checkpoint",
            )


@rule("SL048", Severity.INFO)
def cache_of_each_job(view: ScriptView) -> Iterator[Fault]:
    """The cache of Hugging Face lies in a folder of this job alone.

    Why: every job fetches the base model again, tens of gigabytes for each, until the quota is full.

    Fix: one cache for all, filled before the job, with `HF_HUB_OFFLINE=1` in the job.

    Bad: sbatch
        export HF_HOME=/scratch/$SLURM_JOB_ID/hf

    Good: sbatch
        export HF_HOME=/scratch/me/hf
    """
    names = ("HF_HOME", "HF_HUB_CACHE", "TRANSFORMERS_CACHE", "HUGGINGFACE_HUB_CACHE")
    for step in view.script.steps:
        words = [*(word for _, word in step.command.assignments)]
        if step.command.name == "export":
            words += step.command.words[1:]
        for word in words:
            name, _, value = word.raw.partition("=")
            if name in names and re.search(r"SLURM_(?:JOB_?ID|ARRAY_TASK_ID|TMPDIR)|\$\$|mktemp|\$\{?TMPDIR", value):
                yield Fault(
                    message=f"{name} is a folder of this job alone, so each job fetches its models again",
                    at=view.script.where(word.line, word.column),
                    hint="one folder for all jobs, filled before",
                    subject=name,
                )
                return
