"""An allocation without a scheduler: run folders with small work, and `srun`, `scontrol`, `squeue`, `sbatch` on PATH.

The stand-in for `srun` gives each step GPUs of its own and hands USR1 on to it, as the real one was seen to do, and
fails where more are asked for than are free: a script that starts too much is found out.
"""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.cases import python_program

from touchline.run.scripts.mega import MegaStage

SRUN = r"""
import fcntl, json, os, re, signal, subprocess, sys, time
options, words = {}, sys.argv[1:]
while words[0].startswith("--"):
    name, _, value = words.pop(0).partition("=")
    options[name.lstrip("-")] = value
state = os.environ["STAND_IN_STATE"]
node, gpus = options["nodelist"], int(options.get("gpus-per-task", 0))
with open(state, "r+") as stream:
    fcntl.flock(stream, fcntl.LOCK_EX)
    data = json.load(stream)
    step = data["steps"]
    data["steps"] += 1
    free = data["free"][node]
    if gpus > len(free):
        data["faults"].append(f"{options['job-name']}: {gpus} GPUs asked for, {len(free)} free")
    mine, data["free"][node] = free[:gpus], free[gpus:]
    data["events"].append({"name": options["job-name"], "start": time.time(), "gpus": mine, "node": node})
    stream.seek(0); stream.truncate(); json.dump(data, stream)
inherited = [key for key in os.environ if key.startswith(("SLURM_CPUS_PER", "SLURM_MEM_PER", "SLURM_GPUS", "SLURM_NT"))]
environment = {key: value for key, value in os.environ.items() if key not in inherited}
environment |= {"SLURM_STEP_ID": str(step), "SLURM_CPUS_PER_TASK": options["cpus-per-task"]}
environment |= {"CUDA_VISIBLE_DEVICES": ",".join(map(str, mine))} if gpus else {}
log = os.path.join(os.getcwd(), options["output"])
if "\\" in log:
    log = re.sub(r"\\(.)", r"\1", log, flags=re.DOTALL)
else:
    known = {"%": "%", "J": f"{os.environ['SLURM_JOB_ID']}.{step}"}
    log = re.sub("%([%J])", lambda match: known[match[1]], log)
with open(log, "ab") as stream:
    # One that comes before there is anything to hand it on to is kept.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    hear = lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
    work = subprocess.Popen(words, env=environment, stdout=stream, stderr=stream, preexec_fn=hear)
    signal.signal(signal.SIGUSR1, lambda number, frame: work.send_signal(number))
    hear()
    code = work.wait()
with open(state, "r+") as stream:
    fcntl.flock(stream, fcntl.LOCK_EX)
    data = json.load(stream)
    data["free"][node] += mine
    data["faults"] += [f"{options['job-name']} inherited {inherited}"] if inherited else []
    data["events"].append({"name": options["job-name"], "end": time.time(), "code": code})
    stream.seek(0); stream.truncate(); json.dump(data, stream)
sys.exit(code if code >= 0 else 128 - code)
"""

WORK = r"""
import json, os, pathlib, signal, sys, time
asked = []
signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
plan = json.loads(pathlib.Path("work.json").read_text())
saved = pathlib.Path("resume")
left = float(saved.read_text()) if saved.exists() else plan["seconds"]
print("GPUs", os.environ.get("CUDA_VISIBLE_DEVICES", "none"), "in", os.getcwd(), flush=True)
pathlib.Path("began").touch()
end = time.monotonic() + left
while time.monotonic() < end or not pathlib.Path(plan["until"]).exists():
    time.sleep(0.02)
    if asked:
        saved.write_text(str(plan["then"]))
        sys.exit(75)
if plan["complete"]:
    os.makedirs("epoch_0", exist_ok=True)
    pathlib.Path("epoch_0/touchline.json").write_text("{}")
    pathlib.Path("training.json").write_text(json.dumps({"run_digest": plan["digest"]}, indent=2))
sys.exit(plan["code"])
"""


def digest_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def make_run(
    root: Path,
    name: str,
    *,
    seconds: float = 0.1,
    then: float = 0.0,
    until: str = ".",
    code: int = 0,
    complete: bool = True,
) -> None:
    """A run's folder, its script in the shape of ours, with work that takes `seconds`, and `then` after a stop.

    It goes on until another file is there: `../b/began` until the run `b` has begun, however long that takes.
    """
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "work.py").write_text(WORK)
    plan = {
        "seconds": seconds,
        "then": then,
        "until": until,
        "code": code,
        "complete": complete,
        "digest": digest_of(name),
    }
    (folder / "work.json").write_text(json.dumps(plan))
    (folder / "finetune.yaml").write_text("x: 1\n")
    (folder / "finetune.slurm").write_text(_script(f"{sys.executable} work.py"))


def make_evaluation(root: Path, name: str, *, seconds: float = 0.1, code: int = 0) -> None:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "finetune.yaml").touch()
    (folder / "eval.yaml").write_text("x: 1\n")
    body = _script(f"bash -c 'sleep {seconds}; exit {code}'", "--status eval/status ")
    (folder / "eval.slurm").write_text(body)


def _script(work: str, options: str = "") -> str:
    return (
        "#!/bin/bash\nset -euo pipefail\n"
        'if [ ! -f finetune.yaml ]; then cd -- "${SLURM_SUBMIT_DIR:-$PWD}"; fi\n'
        f"exec {sys.executable} -m touchline.run.attempt {options}-- {work}\n"
    )


def stage(name: str, after: tuple[str, ...] = (), *, gpus: int = 1, upper: float = 30, cpus: int = 1) -> MegaStage:
    return MegaStage(
        name=name,
        folder=name,
        script="finetune.slurm",
        after=after,
        gpus=gpus,
        cpus=cpus,
        upper_seconds=upper,
        done="trained",
        digest=digest_of(name),
        checkpoint="epoch_0",
    )


def evaluation(name: str, *, upper: float = 30) -> MegaStage:
    return MegaStage(
        name=f"evaluate {name}",
        folder=name,
        script="eval.slurm",
        after=(name,),
        gpus=1,
        cpus=1,
        upper_seconds=upper,
        done="evaluated",
    )


class StandIn:
    """A scheduler's words on PATH, and one allocation of it."""

    def __init__(self, folder: Path, nodes: dict[str, int], *, seconds: float = 600) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        self.state = folder / "state.json"
        self.nodes, self.seconds = nodes, seconds
        python_program(self.bin / "srun", SRUN)
        self._put("scontrol", "#!/bin/bash\nprintf '%s\\n' " + " ".join(nodes) + "\n")
        self._put("squeue", "#!/bin/bash\necho $STAND_IN_END\n")

    def run(self, root: Path, *, job: int = 7, usr1_once: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Run mega_job.slurm to its end; send it USR1 once the work of these stages has begun."""
        free = {node: list(range(gpus)) for node, gpus in self.nodes.items()}
        self.state.write_text(json.dumps({"steps": 0, "free": free, "events": [], "faults": []}))
        process = subprocess.Popen(
            ["bash", "-c", "export STAND_IN_JOB=$$; exec bash mega_job.slurm"],
            cwd=root,
            env=self._environment(job, root),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if usr1_once:
            while process.poll() is None and not all((root / name / "began").exists() for name in usr1_once):
                time.sleep(0.02)
            process.send_signal(signal.SIGUSR1)
        out, _ = process.communicate(timeout=120)
        return subprocess.CompletedProcess("mega_job.slurm", process.returncode, out, "")

    def signal_with(self, program: str, once: tuple[str, ...]) -> None:
        """Have `program` send USR1 to the job whenever its script runs it, once the work of these stages has begun."""
        begun = " && ".join(f"[ -e {name}/began ]" for name in once)
        self._put(
            program,
            f'#!/bin/bash\nif {begun}; then kill -USR1 "$STAND_IN_JOB"; fi\nexec {shutil.which(program)} "$@"\n',
        )

    def events(self) -> list[dict[str, object]]:
        found: list[dict[str, object]] = self._read()["events"]
        return found

    def faults(self) -> list[str]:
        """What a real scheduler would have refused, or kept waiting."""
        found: list[str] = self._read()["faults"]
        return found

    def started(self) -> set[str]:
        """Names of the steps; of two that are started at once, either may say so first."""
        return {str(event["name"]) for event in self.events() if "start" in event}

    def _read(self) -> dict[str, Any]:
        """The state under its lock: a step that writes it empties it first."""
        with self.state.open() as stream:
            fcntl.flock(stream, fcntl.LOCK_SH)
            found: dict[str, Any] = json.load(stream)
            return found

    def _environment(self, job: int, root: Path) -> dict[str, str]:
        return {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")} | {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "SLURM_JOB_ID": str(job),
            "SLURM_JOB_NODELIST": "nodes",
            "SLURM_SUBMIT_DIR": str(root),
            "SLURM_GPUS_PER_NODE": "4",
            "SLURM_MEM_PER_NODE": "4096",
            "SLURM_CPUS_PER_TASK": "8",
            "SLURM_NTASKS": "1",
            "STAND_IN_STATE": str(self.state),
            "STAND_IN_END": str(int(time.time() + self.seconds)),
        }

    def _put(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)
