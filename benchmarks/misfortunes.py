"""Kills at random moments, a full disk, a folder of another user, a clock that jumps, a run whose folder is copied.

    python benchmarks/misfortunes.py [--parts kills disk access clock copy] [--slurm] [--rounds 10] [--seed 1]

Each round runs an experiment of 160 steps with evaluations, and is compared with one that nothing happened to: adapters
byte by byte, answers, steps lost or done twice. Trainings are forked from a process that has torch loaded. Part
`access` and the small disk of part `disk` need root. `--slurm` has the parts kills and copy on a real SLURM that
tests/slurm starts. It exits with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.api.folders import command, environment, make_experiment  # noqa: E402 (the path above)
from tests.api.test_whole_way import VICTIMS, _alive, _kill  # noqa: E402
from tests.forking import server  # noqa: E402
from tests.slurm import settings as packages  # noqa: E402
from tests.slurm.cluster import Cluster  # noqa: E402
from tests.slurm.test_run_on_slurm import CONFIG, ON_SLURM  # noqa: E402

from tools.tiny_model import write_tiny_model  # noqa: E402
from touchline.data.metrics_file import read_metrics  # noqa: E402

RUN, STEPS = "1M_rank2", 160
KILLS = 4
SECONDS = 300
TRIES = 4
"""Most repetitions of the same command until all is done."""
NOBODY = (
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    *("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"),
)
"""Another user, who reads what root may read, such as this interpreter, and writes nothing of root's."""
JUMPS = (86_400, -86_400, 3_600, -3_600, 0)
CLOCK = """\
import os, time
def _jumping(real, unit):
    def now():
        try:
            with open(os.environ["CLOCK_OFFSET"]) as stream:
                return real() + int(stream.read() or 0) * unit
        except OSError:
            return real()
    return now
time.time, time.time_ns = _jumping(time.time, 1), _jumping(time.time_ns, 10**9)
"""
"""What every Python process loads at its start in part `clock`. The times of files do not jump with it."""


@dataclass
class Place:
    """A folder for all rounds, and what is counted."""

    root: Path
    chance: random.Random
    env: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ("--no-probe",)
    reference: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    said: Counter[str] = field(default_factory=Counter)

    def make(self) -> None:
        """Write the model, and run the experiment without a misfortune."""
        write_tiny_model(self.root / "models" / "Tiny-1M-Instruct")
        own = {"XDG_CONFIG_HOME": str(self.root / "config"), "HOME": str(self.root / "home")}
        self.env = environment(self.root / "models", self.root / "cache", self.root / "history") | own | self.env
        folder = self.fresh("reference")
        self.finish(folder)
        self.reference = outcome(folder)

    def fresh(self, name: str, parent: Path | None = None) -> Path:
        """Return an experiment that nothing has been done with; what `auto` would decide by this machine is set."""
        folder = make_experiment((parent or self.root) / name, ranks="[2]", n_train=8 * STEPS // 2)
        path = folder / "experiment.yaml"
        path.write_text(path.read_text().replace("train:\n", "train:\n  micro_batch_size: 4\n  packed: false\n"))
        return folder

    def start(self, folder: Path) -> subprocess.Popen[bytes]:
        words = command("run", str(folder), *self.options)
        with (self.root / "stderr").open("ab") as stream:
            return subprocess.Popen(words, env=self.env, cwd=self.root, stderr=stream, stdout=subprocess.DEVNULL)

    def call(self, *words: str, prefix: Sequence[str] = (), **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command; count its exit code and the errors that it says."""
        done = subprocess.run(
            [*prefix, *command(*words)],
            env=self.env | variables,
            cwd=self.root,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=2 * SECONDS,
        )
        if done.returncode or "error: " in done.stderr:
            lines = [line.strip() for line in done.stderr.splitlines() if line.startswith(("error", "internal"))]
            lines = lines or done.stderr.strip().splitlines()[-1:]
            said = re.sub(r"'?/\S+/(\S*)", r"\1", " | ".join(lines)[:200])
            self.said[f"{words[0]} ({done.returncode}): {re.sub(r'[0-9a-f]{8,}|[0-9]+', 'N', said)}"] += 1
        for word in ("Traceback", "a fault in touchline itself", "internal error"):
            self.counts["internal errors"] += word in done.stderr + done.stdout
        return done

    def finish(self, folder: Path) -> None:
        """Type the same command until all is done."""
        for _ in range(TRIES):
            if self.call("run", str(folder), *self.options).returncode == 0:
                return
            self.counts["repeated commands"] += 1
        self.counts["never finished"] += 1

    def compare(self, folder: Path) -> None:
        """Count what differs from the run that nothing happened to."""
        found = outcome(folder)
        for name, value in self.reference.items():
            kind = "adapters" if name.endswith("safetensors") else "answers"
            self.counts[f"{kind} equal" if found.get(name) == value else f"{kind} not equal"] += 1
        metrics = read_metrics(folder / RUN / "metrics.jsonl")
        steps = Counter(row.step for row in metrics.steps)
        self.counts["steps lost"] += len(set(range(1, STEPS + 1)) - steps.keys())
        self.counts["steps twice"] += sum(count - 1 for count in steps.values())
        self.counts["done again after the last saved state: steps"] += metrics.superseded_steps
        self.counts["cut lines of metrics"] += metrics.torn_lines
        self.counts["files left"] += sum(name.name.endswith(".tmp") for name in folder.rglob("*"))
        self.counts["processes left"] += len(_alive(folder))
        self.counts["rounds"] += 1


def outcome(folder: Path) -> dict[str, str]:
    """Return a hash of every adapter and of all answers."""
    found = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("*/epoch_*/adapter_model.safetensors"))
    }
    for path in sorted(folder.glob("*/eval/*.scores.json")):
        samples = json.loads(path.read_text())["samples"]
        found[str(path.relative_to(folder))] = json.dumps([(each["id"], each["output"]) for each in samples])
    return found


def wait_for(true: Callable[[], Any], process: subprocess.Popen[bytes]) -> Any:
    """Wait until something is so. Return it, or None if the process ends before."""
    end = time.monotonic() + SECONDS
    while process.poll() is None and time.monotonic() < end:
        if found := true():
            return found
        time.sleep(0.01)
    return None


def has_steps(folder: Path) -> bool:
    path = folder / RUN / "metrics.jsonl"
    return path.is_file() and '"step"' in path.read_text(errors="replace")


def kills(place: Place, number: int) -> None:
    """KILL to some process of the four kinds, some time after it has appeared."""
    folder = place.fresh(f"kills{number}")
    process = place.start(folder)
    names = [place.chance.choice(sorted(VICTIMS)) for _ in range(KILLS)]
    for name in sorted(names, key=lambda name: name == "evaluator"):
        if process.poll() is not None and (name == "evaluator" or not (folder / "RESULTS.md").is_file()):
            for path in folder.glob("*/eval/*.*"):
                path.unlink()
            process = place.start(folder)
        if wait_for(lambda name=name: _alive(folder).get(name), process) is None:
            continue
        time.sleep(place.chance.uniform(0, 4))
        if victim := _alive(folder).get(name):
            _kill(victim)
            place.counts[f"kills: {name}"] += 1
    process.kill()
    process.wait()
    place.finish(folder)
    place.compare(folder)


@contextlib.contextmanager
def small_disk(place: Place, mib: int) -> Iterator[Path]:
    disk = place.root / "disk"
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(disk)], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> None:
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as stream:
        while stream.write(b"x" * 512):
            pass


def disk(place: Place, number: int) -> None:
    """The disk is full: before the run, at a random moment of it, or when its evaluation begins."""
    with small_disk(place, 16) as small:
        folder = place.fresh("exp", small)
        process: subprocess.Popen[bytes] | None = None
        if number % 3 == 0:
            fill(small)
            place.call("run", str(folder), *place.options)
        else:
            process = place.start(folder)
            sign = (lambda: has_steps(folder)) if number % 3 == 1 else (lambda: "evaluator" in _alive(folder))
            wait_for(sign, process)
            time.sleep(place.chance.uniform(0, 2))
            fill(small)
            place.counts[f"ended with {process.wait(SECONDS)}"] += 1
            place.call("status", str(folder), "--no-queue")
            place.call("report", str(folder))
        place.counts["disk filled"] += 1
        (small / "filler").unlink()
        place.finish(folder)
        place.compare(folder)


def access(place: Place, number: int) -> None:
    """Another user reads a finished experiment and an unfinished one, and can write neither; nothing changes."""
    home = place.root / "nobody"
    home.mkdir(exist_ok=True)
    os.chown(home, 65534, 65534)
    for each in (place.root, *place.root.parents):
        with contextlib.suppress(OSError):
            each.chmod(each.stat().st_mode | 0o055)
    unfinished = place.fresh(f"unfinished{number}")
    place.call("plan", str(unfinished))
    place.call("prepare", str(unfinished))
    own = {"HOME": str(home), "TOUCHLINE_CACHE_DIR": str(home / "cache"), "XDG_CONFIG_HOME": str(home / "config")}
    for history in (str(home / "history"), place.env["TOUCHLINE_HISTORY_DIR"]):
        for folder in (place.root / "reference", unfinished):
            before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
            for words in (
                *(("plan",), ("plan", "--dry-run"), ("check",), ("prepare",), ("run", "--no-probe"), ("status",)),
                *(("results",), ("logs", "--run", RUN), ("collect",), ("report",), ("evaluate", "--epoch", "all")),
                *(
                    ("resume",),
                    ("clean",),
                    ("cancel", "--all"),
                    ("export", "--to", "tensorboard"),
                    ("reproduce", "--run", RUN),
                ),
            ):
                verb, *rest = words
                extra = own | {"TOUCHLINE_HISTORY_DIR": history}
                done = place.call(verb, str(folder), *rest, prefix=NOBODY, **extra)
                place.counts["commands"] += 1
                place.counts["codes beyond 4"] += done.returncode > 4
            place.counts["files changed"] += before != {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    place.counts["rounds"] += 1


def clock(place: Place, number: int) -> None:
    """The clock jumps a day or an hour, there and back, at random moments; one training is killed in between."""
    hook, offset = place.root / "hook", place.root / "offset"
    hook.mkdir(exist_ok=True)
    (hook / "sitecustomize.py").write_text(CLOCK)
    offset.write_text("0")
    kept = place.env
    place.env = kept | {"CLOCK_OFFSET": str(offset), "PYTHONPATH": f"{hook}:{os.environ.get('PYTHONPATH', '')}"}
    folder = place.fresh(f"clock{number}")
    process = place.start(folder)
    wait_for(lambda: has_steps(folder), process)
    for jump in place.chance.sample(JUMPS, len(JUMPS)):
        offset.write_text(str(jump))
        place.counts["jumps"] += 1
        time.sleep(place.chance.uniform(0.2, 1))
        if jump == JUMPS[number % 4] and (trainer := _alive(folder).get("trainer")):
            _kill(trainer)
            place.counts["kills: trainer"] += 1
        place.call("status", str(folder), "--no-queue")
    place.counts[f"ended with {process.wait(SECONDS)}"] += 1
    place.finish(folder)
    place.compare(folder)
    found = json.loads(place.call("results", str(folder), "--json").stdout)
    for key, value in numbers(found["runs"]):
        if ("seconds" in key or "minutes" in key) and not 0 <= value < 3000:
            place.counts[f"wrong time: {key}"] += 1
            print(f"clock {number}: {key} {value}")
    place.env = kept


def numbers(item: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Yield the dotted key and value of every number."""
    if isinstance(item, dict):
        for name, value in item.items():
            yield from numbers(value, f"{key}.{name}")
    elif isinstance(item, list):
        for value in item:
            yield from numbers(value, key)
    elif isinstance(item, int | float) and not isinstance(item, bool):
        yield key, item


def copy(place: Place, number: int) -> None:
    """The folder is copied at two random moments of a run; each copy is run by itself, and neither disturbs another."""
    folder = place.fresh(f"copy{number}")
    process, copies = place.start(folder), []
    wait_for(lambda: has_steps(folder), process)
    for each in range(2):
        time.sleep(place.chance.uniform(0, 2))
        target = place.root / f"copy{number}-of-{each}"
        subprocess.run(["cp", "-r", str(folder), str(target)], check=False, capture_output=True)
        copies.append(target)
        if each == 0:
            place.call("status", str(target), "--no-queue")
    place.counts[f"ended with {process.wait(2 * SECONDS)}"] += 1
    for target in (folder, *copies):
        place.finish(target)
        place.compare(target)
    place.counts["copies"] += len(copies)


PARTS: dict[str, tuple[Callable[[Place, int], None], int]] = {
    "kills": (kills, 1),
    "disk": (disk, 3),
    "access": (access, 10),
    "clock": (clock, 4),
    "copy": (copy, 4),
}
"""What happens, and of how many rounds of kills one has it."""
RIGHT = re.compile(
    r"(adapters|answers) equal|done again|cut lines|rounds|kills: |repeated|ended|disk filled|commands|jumps|copies"
)
"""Counts that may be above zero."""


def tell(name: str, place: Place) -> bool:
    """Print the counts and what was said. Return whether nothing is wrong."""
    wrong = {key: count for key, count in place.counts.items() if count and not RIGHT.match(key)}
    print(f"{name}: {', '.join(f'{key} {count}' for key, count in sorted(place.counts.items()))}")
    for said, count in place.said.most_common(40):
        print(f"    {count} x {said}")
    print(f"    {'wrong: ' + str(wrong) if wrong else 'nothing lost, nothing twice'}", flush=True)
    return not wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS)
    parser.add_argument("--slurm", action="store_true")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", default="1")
    options = parser.parse_args(arguments)
    parts = options.parts or (["kills", "copy"] if options.slurm else list(PARTS))
    well = True
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.callback(server.begin())
        place = Place(root, random.Random(options.seed))  # noqa: S311 (made-up moments)
        if options.slurm:
            if why := packages.unavailable() or packages.install():
                print(f"no SLURM: {why}")
                return 1
            place.env = stack.enter_context(Cluster(nodes=1)).environment
            (root / "config" / "touchline").mkdir(parents=True)
            (root / "config" / "touchline" / "config.yaml").write_text(CONFIG)
            place.options = ("--no-probe", ON_SLURM)
        place.make()
        for part in parts:
            happen, every = PARTS[part]
            place.counts.clear()
            place.said.clear()
            for number in range(max(options.rounds // every, 1)):
                happen(place, number)
                print(f"{part} {number}: {dict(place.counts)}", file=sys.stderr, flush=True)
            well &= tell(part, place)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
