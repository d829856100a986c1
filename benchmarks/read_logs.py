"""How fast logs are read: MB a second on one core, and the ratio to `grep -E` over the same files in the same run.

    python benchmarks/read_logs.py [--size-mb 16]

The files are written by this script in the trainers' forms: bars redrawn on stderr, rows of losses, warnings that
repeat, free text, JSON lines. grep looks for what people grep for (speed, memory, loss, errors); it gives lines, not
numbers with their phase and unit, and cannot tell one attempt from another.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

from touchline.history.scan import Scan
from touchline.history.segments import FileSegmenter

REPEATS = 5
PATTERN = (
    r"[0-9.]+(it/s|s/it)|GPU peak memory|memory allocated|'(eval_|train_)?loss'|\"loss\"|train_runtime|Traceback"
    r"|CUDA out of memory|oom[-_]kill|CANCELLED|DUE TO TIME LIMIT|trainable params|[Pp]acking (density|efficiency)"
)
COMMON = ("a", "the", "of", "and", "to", "in", "that", "is", "was", "it", "with", "said", "then", "went", "you", "not")


def bars(random_: random.Random) -> Iterator[str]:
    """A Trainer's stderr."""
    total, step = 200_000, 0
    while True:
        step = step % total + 1
        seconds = step * 2 + random_.randrange(2)
        percent = 100 * step // total
        clock = f"{seconds // 3600}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"
        drawn = "█" * (percent // 10)
        yield f"\r {percent:2d}%|{drawn:<10}| {step}/{total} [{clock}<99:59:59,  2.{random_.randrange(100):02d}s/it]"


def rows(random_: random.Random) -> Iterator[str]:
    """A Trainer's stdout."""
    step = 0
    while True:
        step += 10
        row = {
            "loss": round(3 * 0.9999**step + random_.random() / 10, 4),
            "grad_norm": random_.random(),
            "learning_rate": random_.random() * 1e-4,
            "epoch": round(step / 50_000, 4),
        }
        yield f"{row}\n"


def json_rows(random_: random.Random) -> Iterator[str]:
    """A trainer_log.jsonl."""
    step = 0
    while True:
        step += 10
        row = {
            "current_steps": step,
            "total_steps": 10_000_000,
            "loss": round(random_.random(), 4),
            "lr": random_.random() * 1e-4,
            "epoch": step / 50_000,
            "percentage": round(step / 100_000, 2),
            "elapsed_time": f"{step // 3600}:{step % 3600 // 60:02d}:{step % 60:02d}",
            "remaining_time": "6:01:13",
        }
        yield json.dumps(row) + "\n"


def warnings(random_: random.Random) -> Iterator[str]:
    """What libraries repeat."""
    while True:
        yield (
            f"[WARNING|tokenization_utils_base.py:3922] 2025-01-{random_.randrange(10, 31)} 10:00:00,123 >> Token "
            f"indices sequence length is longer than the maximum for this model ({random_.randrange(2049, 9999)} > "
            "2048).\n"
        )


def text(random_: random.Random) -> Iterator[str]:
    """Samples of generated text: common words and others of the language, in equal parts."""
    data = (resources.files("touchline.data") / "wordlists" / "american-english.txt").read_text("utf-8")
    others = data.split()
    while True:
        pairs = zip(random_.choices(COMMON, k=8), random_.choices(others, k=8), strict=True)
        yield " ".join(word for pair in pairs for word in pair) + ".\n"


KINDS: dict[str, Callable[[random.Random], Iterator[str]]] = {
    "bars.err": bars,
    "rows.out": rows,
    "trainer_log.jsonl": json_rows,
    "warnings.log": warnings,
    "text.log": text,
}


def write(folder: Path, size_bytes: int) -> None:
    """One file a kind, all of one size."""
    for name, kind in KINDS.items():
        made = kind(random.Random(7))  # noqa: S311 (the same files each time)
        with (folder / name).open("w", encoding="utf-8") as stream:
            while stream.tell() < size_bytes:
                stream.write("".join(next(made) for _ in range(2000)))


def cpu_seconds(action: Callable[[], object]) -> float:
    """Processor time of an action and its children."""
    before = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    action()
    after = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(b.ru_utime + b.ru_stime - a.ru_utime - a.ru_stime for a, b in zip(before, after, strict=True))


def main() -> int:
    """Measure, print, and tell whether the budget holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mb", type=int, default=16, help="size of each file")
    parser.add_argument("--budget", type=float, default=50.0, help="MB/s over all files")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, options.size_mb << 20)
        files = sorted(folder.iterdir())
        print(f"load {os.getloadavg()[0]:.2f}, Python {sys.version.split()[0]}, median of {REPEATS}, processor time")
        print(f"{'file':20} {'MB':>6} {'touchline MB/s':>15} {'grep -E MB/s':>13} {'ratio':>6}")
        ours_all, grep_all, size_all = [0.0] * REPEATS, [0.0] * REPEATS, 0.0
        for file in files:
            size = file.stat().st_size / 1e6
            ours, grep = [], []
            for repeat in range(REPEATS):  # interleaved: a busy moment hits both
                ours.append(cpu_seconds(lambda file=file: Scan(file, FileSegmenter(file.name)).run()))  # type: ignore[misc]
                command = ["grep", "-aEc", PATTERN, str(file)]
                grep.append(
                    cpu_seconds(lambda command=command: subprocess.run(command, check=False, capture_output=True))
                )  # type: ignore[misc]
                ours_all[repeat] += ours[-1]
                grep_all[repeat] += grep[-1]
            size_all += size
            _row(file.name, size, statistics.median(ours), statistics.median(grep))
        _row("all", size_all, statistics.median(ours_all), statistics.median(grep_all))
        speed = size_all / statistics.median(ours_all)
    print(f"{'ok' if speed >= options.budget else 'BROKEN'}: {speed:.0f} MB/s, budget {options.budget:.0f} MB/s")
    return 0 if speed >= options.budget else 1


def _row(name: str, size: float, ours: float, grep: float) -> None:
    print(f"{name:20} {size:6.1f} {size / ours:15.1f} {size / grep:13.1f} {grep / ours:6.2f}")


if __name__ == "__main__":
    raise SystemExit(main())
