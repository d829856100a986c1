"""Packs, efficiency and seconds of our packer and of each installed peer, on the same lengths.

    python benchmarks/packing.py [--sizes small large million] [--repeats 3] [--json] [--torchtune-python PYTHON]

Each packer runs in a process of its own, one thread; the rounds are interleaved, so that a busy moment hits all. Times
are processor time, the middle of the rounds; what takes longer than five seconds is done once. "torchtune, our order"
is torchtune's own class on the dataset written pack by pack. TRL, torchtune and
LLaMA-Factory must be there (`make bench` sees to it); lightbinpack and NeMo are measured where they are installed.
Exits with 1 when one is missing, when a peer needs fewer packs than we do, when our order does not give torchtune our
packs, or when a million examples are not planned in 0.2 s and a hundred times as fast as by TRL.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.packing.cases import CASES, LARGE_CASES, MILLION_CASES, PackingCase  # noqa: E402 (the path is set above)

from touchline.data.packing.assign import hand_off, pack  # noqa: E402
from touchline.data.packing.groups import count_lengths, lower_bound  # noqa: E402

PEER_FILE = Path(__file__).with_name("packing_peer.py")
SIZES: dict[str, tuple[PackingCase, ...]] = {"small": CASES, "large": LARGE_CASES, "million": MILLION_CASES}
LONG_S = 5.0
"""What takes longer is measured once."""
PLAN_BUDGET_S = 0.2
TIMES_TRL = 100
OURS, COUNTS, TRL, HANDED_OVER = "ours", "ours, counts", "TRL, whole", "torchtune, our order"
OPTIONAL = ("lightbinpack", "NeMo")
INSTALL = {
    "TRL": "install the extra 'dev': pip install -e '.[dev]'",
    "torchtune": "install it in an environment of its own and give that with --torchtune-python or "
    "TOUCHLINE_TORCHTUNE_PYTHON (`make bench` makes .venv-torchtune): pip install torch==2.13.0, then "
    "pip install torchao==0.10.0 torchtune==0.6.1",
    "LLaMA-Factory": "install it beside torchtune: pip install --no-deps llamafactory==0.9.5",
}


@dataclass(kw_only=True)
class Result:
    """What a packer made of a case."""

    packs: int | None = None
    efficiency: float | None = None
    """Per cent of the tokens of full packs that are no padding."""
    seconds: list[float] = field(default_factory=list)
    """Each round."""
    skipped: str | None = None
    """Why not."""

    @property
    def median_s(self) -> float:
        """The middle round."""
        return statistics.median(self.seconds)


class Packer:
    """A packer in its own process."""

    def __init__(self, name: str, python: str) -> None:
        self.name = name
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            [python, str(PEER_FILE), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        first = self._read()
        self.missing: str | None = first.get("missing")  # type: ignore[assignment]
        self.version = first.get("ready")

    def _read(self) -> dict[str, object]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"missing": "its process has ended"}

    def run(self, file: Path, max_seq_len: int) -> dict[str, object]:
        """One round."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"file": str(file), "max_seq_len": max_seq_len}) + "\n")
        self.process.stdin.flush()
        answer = self._read()
        if "missing" in answer:
            raise SystemExit(f"{self.name} broke off on {file.name}")
        return answer

    def __enter__(self) -> Packer:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


def measure(case: PackingCase, packers: Sequence[Packer], repeats: int, folder: Path) -> dict[str, Result]:
    """All packers on one case, round after round."""
    lengths = case.lengths()
    file, ordered = folder / "lengths.npy", folder / "ordered.npy"
    np.save(file, lengths)
    np.save(ordered, lengths[hand_off(pack(lengths, case.max_seq_len, seed=1), lengths).order])
    results = {packer.name: Result() for packer in packers}
    for _ in range(repeats):
        for packer in packers:
            result = results[packer.name]
            if result.skipped or (result.seconds and result.seconds[0] > LONG_S):
                continue
            answer = packer.run(ordered if packer.name == HANDED_OVER else file, case.max_seq_len)
            if "skipped" in answer:
                result.skipped = str(answer["skipped"])
                continue
            result.packs = int(answer["packs"])  # type: ignore[call-overload]
            result.efficiency = 100 * int(lengths.sum()) / (result.packs * case.max_seq_len)
            result.seconds.append(float(answer["seconds"]))  # type: ignore[arg-type]
    return results


def broken(case: PackingCase, results: dict[str, Result]) -> list[str]:
    """What we promise and do not keep on this case."""
    ours = results[OURS]
    assert ours.packs is not None
    found = [
        f"{case}: {name} needs {result.packs:,} packs, we need {ours.packs:,}"
        for name, result in results.items()
        if result.packs is not None and result.packs < ours.packs
    ]
    handed_over = results[HANDED_OVER].packs
    if handed_over is not None and handed_over != ours.packs:
        found.append(f"{case}: torchtune makes {handed_over:,} packs of our order, not {ours.packs:,}")
    if case in MILLION_CASES:
        if ours.median_s > PLAN_BUDGET_S:
            found.append(f"{case}: planned in {ours.median_s:.2f} s, budget {PLAN_BUDGET_S} s")
        if results[TRL].median_s < TIMES_TRL * ours.median_s:
            found.append(f"{case}: {results[TRL].median_s / ours.median_s:.0f} times as fast as TRL, not {TIMES_TRL}")
    return found


def table(rows: Sequence[tuple[PackingCase, int, dict[str, Result]]], names: Sequence[str]) -> str:
    """Markdown: a row a case; packs, efficiency, milliseconds of each packer."""
    lines = [
        "| case | bound | " + " | ".join(names) + " |",
        "|---|---:|" + "---:|" * len(names),
    ]
    for case, bound, results in rows:
        cells = [
            f"n/a ({result.skipped})"
            if result.packs is None
            else f"{result.packs:,} · {result.efficiency:.2f} % · {1e3 * result.median_s:,.1f}"
            for result in (results[name] for name in names)
        ]
        lines.append(f"| {case} | {bound:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def pythons(options: argparse.Namespace) -> dict[str, str]:
    """The interpreter of each packer."""
    own = sys.executable
    theirs = str(options.torchtune_python)
    return {
        OURS: own,
        COUNTS: own,
        TRL: own,
        "TRL, per 1,000": own,
        "torchtune": theirs,
        HANDED_OVER: theirs,
        "LLaMA-Factory, per 1,000": theirs,
        "lightbinpack": theirs,
        "NeMo": theirs,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and tell whether the promises hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="everything, on standard output")
    default = os.environ.get("TOUCHLINE_TORCHTUNE_PYTHON", str(ROOT / ".venv-torchtune" / "bin" / "python"))
    parser.add_argument("--torchtune-python", type=Path, default=Path(default), help="has torchtune, LLaMA-Factory ...")
    options = parser.parse_args(arguments)
    if not options.torchtune_python.exists():
        print(
            f"torchtune is missing ({options.torchtune_python} is not there): {INSTALL['torchtune']}", file=sys.stderr
        )
        print(f"LLaMA-Factory is missing: {INSTALL['LLaMA-Factory']}", file=sys.stderr)
        return 1
    rows: list[tuple[PackingCase, int, dict[str, Result]]] = []
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        packers = []
        for name, python in pythons(options).items():
            packer = stack.enter_context(Packer(name, python))
            if packer.missing is None:
                packers.append(packer)
            elif name not in OPTIONAL:
                word = name.split(",")[0]
                faults.append(f"{word} is missing ({packer.missing}): {INSTALL.get(word, 'install touchline')}")
        if faults:
            print("\n".join(dict.fromkeys(faults)), file=sys.stderr)
            return 1
        versions = {packer.name: packer.version for packer in packers}
        for size in options.sizes:
            for case in SIZES[size]:
                print(f"{case} ...", file=sys.stderr)
                results = measure(case, packers, options.repeats, Path(folder))
                bound = lower_bound(count_lengths(case.lengths(), case.max_seq_len), case.max_seq_len)
                rows.append((case, bound, results))
                faults += broken(case, results)
    names = [packer.name for packer in packers]
    if options.json:
        cases = [
            {
                "case": str(case),
                "examples": case.examples,
                "max_seq_len": case.max_seq_len,
                "lower_bound": bound,
                "packers": {name: asdict(result) for name, result in results.items()},
            }
            for case, bound, results in rows
        ]
        print(
            json.dumps({"versions": versions, "load": os.getloadavg()[0], "cases": cases, "faults": faults}, indent=1)
        )
    else:
        words = ", ".join(f"{name} {version}" for name, version in versions.items())
        print(f"load {os.getloadavg()[0]:.2f}, Python {sys.version.split()[0]}, numpy {np.__version__}; {words}")
        print("packs · tokens that are no padding · milliseconds of processor time\n")
        print(table(rows, names))
    for fault in faults:
        print(f"BROKEN: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
