"""Pages of what `touchline doctor` finds: this machine, the cluster, and the user's settings for them."""

from __future__ import annotations

from touchline.domain.finding import Severity

_E, _W = Severity.ERROR, Severity.WARNING

DOCUMENTED_SITE: dict[str, tuple[Severity, str, str]] = {
    "US110": (
        _W,
        "cannot-train-here",
        """Packages that train or evaluate are not installed for the interpreter that the jobs use.

        Why: a login node that only plans needs none of them; a job that is started with that interpreter ends at once.

        Fix: install the extras, `pip install -e '.[train,eval]'`, or name the nodes' interpreter in slurm.python.
        """,
    ),
    "US111": (
        _E,
        "interpreter-of-the-nodes",
        """`slurm.python` is no interpreter that has touchline, as seen from this machine.

        Why: every script starts it; all jobs would wait in the queue and then end at once.

        Fix: give the path of an environment on a disk that the nodes share, with touchline installed.
        """,
    ),
    "US112": (
        _E,
        "folder-not-usable",
        """A folder of the settings is not there or cannot be written.

        Why: plans, caches and the history are written there, and runs into the experiments' folder.

        Fix: set another folder in the config file, or ask for the permission; the message has the system's own words.
        """,
    ),
    "US113": (
        _W,
        "disk-nearly-full",
        """A disk is nearly full.

        Why: checkpoints are written in the middle of trainings, and one that does not fit ends its run.

        Fix: free space there, or set another folder; `touchline plan` predicts what an experiment takes.
        """,
    ),
    "US114": (
        _E,
        "file-locks-do-nothing",
        """File locks keep no other process out on a folder's file system.

        Why: a lock in the run's folder is what keeps a job that was submitted twice from training twice at once.

        Fix: put experiments on a local disk, or on a network file system with locks.
        """,
    ),
    "US115": (
        _W,
        "file-locks-of-one-machine",
        """A network file system is mounted so that file locks hold on one machine only.

        Why: two nodes could then work on one run at once: `local_lock` and `nolock` of NFS, `localflock` of Lustre, or
        Lustre without `flock`.

        Fix: put experiments on a file system whose locks hold for all nodes, or ask the site for such a mount.
        """,
    ),
    "US116": (
        _W,
        "torch-without-gpu",
        """There are GPUs, and torch is built for the processor alone.

        Why: trainings would use the processor in silence, and take many times as long.

        Fix: install the build of torch for the GPU's driver.
        """,
    ),
    "US120": (
        _E,
        "controller-silent",
        """SLURM's commands are here and its controller does not answer.

        Why: nothing can be submitted, and nothing about running jobs can be told.

        Fix: try again in a minute; then ask the site's support.
        """,
    ),
    "US121": (
        _E,
        "partition",
        """A partition that does not exist, none where the cluster has no default one, or one that is down.

        Why: sbatch refuses every job, or takes jobs that do not start.

        Fix: name one of the partitions that the message lists, in slurm.partition or compute.partition.
        """,
    ),
    "US122": (
        _E,
        "gpus-of-the-partition",
        """The partition's nodes have no GPUs, or none of the type that is asked for.

        Why: sbatch refuses such a job, "Requested node configuration is not available".

        Fix: take the type as sinfo writes it, leave slurm.gpu_type out, or name another partition.
        """,
    ),
    "US123": (
        _E,
        "account",
        """An account that this user may not use, or no account at all.

        Why: where accounts are enforced sbatch refuses the job; elsewhere its hours are booked nowhere.

        Fix: name one of the accounts that the message lists, in slurm.account or compute.account.
        """,
    ),
    "US124": (
        _E,
        "quality-of-service",
        """A quality of service that does not exist, or that this user may not use.

        Why: sbatch refuses the job.

        Fix: name one that the message lists, in slurm.qos or compute.qos, or leave it out.
        """,
    ),
    "US125": (
        _W,
        "limit-of-submitted-jobs",
        """The cluster limits how many jobs of a user may be in the queue, and the settings do not say so.

        Why: of a larger experiment sbatch refuses what is over the limit.

        Fix: set slurm.max_submitted to that number; the other jobs are submitted as those end.
        """,
    ),
    "US127": (
        _W,
        "warning-longer-than-jobs",
        """Jobs are told to save so long before their limit that little of a job is left for work.

        Why: a job that is told to save when it has hardly begun is queued again without progress.

        Fix: set a smaller slurm.signal_seconds: a few times what saving takes.
        """,
    ),
    "US128": (
        _W,
        "looked-at-too-seldom",
        """The queue forgets ended jobs sooner than it is looked at, and there is no accounting to ask.

        Why: of a job that was killed in silence nobody can then tell how it ended.

        Fix: set slurm.poll_seconds to less than half of the cluster's MinJobAge.
        """,
    ),
    "US129": (
        _W,
        "no-accounting",
        """The cluster keeps no accounting, or it does not answer.

        Why: how a job ended that was killed in silence can be asked for some minutes only.

        Fix: nothing need be done: jobs write their own end, and those that could not are shown as UNKNOWN.
        """,
    ),
    "US131": (
        _E,
        "sbatch-refuses",
        """`sbatch --test-only` refuses a job with the user's settings.

        Why: it would refuse every job of every experiment.

        Fix: sbatch's own words are in the message, and the command to try is beside them.
        """,
    ),
    "US132": (
        _W,
        "memory-when-none-is-asked-for",
        """The cluster gives jobs that ask for no memory less than the weights of the largest model here.

        Why: loading that model then ends the job, killed for memory.

        Fix: set slurm.memory_gb, or compute.memory_gb_per_run, to more than the weights.
        """,
    ),
    "US133": (
        _E,
        "planned-for-the-login-node",
        """The runs are started by SLURM, and nothing says which GPU its nodes have.

        Why: `compute.gpu: auto` is the machine at hand, here a login node; time limits, memory and micro-batches of its
        CPU or GPU would be wrong on the nodes.

        Fix: name the GPU of the nodes in experiment.yaml, `compute: {gpu: A100-80GB}`, or its type as `slurm.gpu_type`
        in the user's config file. `compute: {gpu: cpu}` plans for runs on CPUs.
        """,
    ),
    "US134": (
        _W,
        "any-gpu-type",
        """The plan is for one kind of GPU, and the jobs ask for any that their partition has.

        Why: `--gpus=1` without a type gives whatever is free; on a smaller GPU the run ends out of memory, on a slower
        one at its time limit.

        Fix: set `slurm.gpu_type` in the user's config file to the type as sinfo writes it, or a constraint.
        """,
    ),
    "US135": (
        _E,
        "stated-facts",
        """A fact that is stated of past runs has a key that does not exist, or a value that it cannot have.

        Why: an estimate that rests on a wrong fact is wrong, and a misspelt one would be ignored silently.

        Fix: the message names the option, or the file and line, and what is expected. The keys that can be stated with
        `touchline history add` and in a file `touchline-facts.yaml` beside the logs are in docs/concepts/past-runs.md.
        """,
    ),
}
"""Code to usual severity, name and page."""
