"""A real SLURM on this machine for as long as tests need it: munged, slurmctld, two slurmd, slurmdbd and a database.

    with Cluster() as cluster:
        cluster.commands().run(["sbatch", ...], timeout_seconds=10)

`python -m tests.slurm.cluster` starts one by hand and keeps it until Ctrl-C.

Every daemon is a child of this process and stays in the foreground, so its pid is its own until it has been waited for;
each also asks the kernel for TERM when this process dies, even of KILL. Everything lies in one temporary folder.
Not covered: nodes on other machines, control groups of version 2 (there SLURM counts memory itself), other users.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import psutil
from tests.slurm import settings
from tests.slurm import settings as packages

from touchline.slurm.local.commands import CommandResult, RealCommands

START_SECONDS = 45.0
"""How long any one daemon may take to answer."""
PORTS = range(20000, 32000, 20)
"""Below the ports that the kernel gives out by itself."""
LIMITED_QOS = "small"
"""A quality of service that takes `LIMITED_JOBS` jobs of a user at a time."""
LIMITED_JOBS = 2
ACCOUNT = "lab"
"""An account that this user may use."""


class ClusterError(Exception):
    """The cluster did not do what it was asked to."""


class ClusterCommands(RealCommands):
    """The real commands, of one cluster."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment

    def run(
        self,
        words: Sequence[str],
        *,
        timeout_seconds: float,
        cwd: Path | None = None,
        environment: dict[str, str] | None = None,
        keep: Sequence[int] = (),
    ) -> CommandResult:
        """Run one command as RealCommands does, told which cluster."""
        told = {**self._environment, **(environment or {})}
        return super().run(words, timeout_seconds=timeout_seconds, cwd=cwd, environment=told, keep=keep)


class Cluster:
    """One SLURM; start it with `with`, or by `start` and `stop`."""

    def __init__(self, *, nodes: int = 2, cgroup: bool | None = None) -> None:
        """Choose its folder and its ports; nothing runs yet.

        Args:
            nodes: how many slurmd.
            cgroup: whether control groups hold jobs to their memory; None: where this machine has them.
        """
        self._held, base = _hold_ports()
        self.layout = settings.Layout(
            # SLURM's sockets have long names, and a socket's path may have 107 characters.
            root=Path(tempfile.mkdtemp(prefix="touchline-slurm-")),
            base_port=base,
            nodes=nodes,
            cgroup=has_cgroup() if cgroup is None else cgroup,
        )
        self.environment = {"SLURM_CONF": str(self.layout.slurm_conf)}
        """What makes SLURM's commands talk to it."""
        self.nodes = self.layout.node_names
        self.cgroup = self.layout.cgroup
        self.partition, self.preemptible = "gpu", "preemptible"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Cluster:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Write the files and start the daemons; back when every node is idle.

        Raises:
            ClusterError: something did not come up; with the ends of all logs.
        """
        self._write_files()
        root = self.layout.root
        munge = ("--force", "--foreground", f"--key-file={root}/munge/key", f"--socket={root}/run/munge.sock")
        files = (f"--pid-file={root}/run/munged.pid", f"--log-file={root}/log/munged.log")
        self._run_daemon("munged", "munged", *munge, *files, f"--seed-file={root}/munge/seed", "--num-threads=4")
        self._start_database()
        self._wait("munged", lambda: self._try("munge", "-S", f"{root}/run/munge.sock", "-n"))
        self.start_accounting()
        self._make_accounts()
        self.start_controller(wait=False)
        for node in self.nodes:
            self._start_node(node)
        self._wait("the nodes", lambda: self._idle_nodes() == set(self.nodes))

    def stop(self) -> None:
        """End the jobs, then every daemon, then the folder; does what is left to do when called again."""
        with suppress(ClusterError, subprocess.TimeoutExpired):
            if "slurmctld" in self._daemons:
                self._end_jobs()
        nodes = [name for name in self._daemons if name.startswith("slurmd ")]
        self._end("slurmctld", *nodes)
        for node in self.nodes:
            self._kill_jobs_of(node)
        self._end("slurmdbd")
        self._end("mariadbd", "munged")
        remove_cgroups(self.nodes)
        shutil.rmtree(self.layout.root, ignore_errors=True)
        self._held.close()

    def commands(self, *, accounting: bool = True, patient: bool = True) -> ClusterCommands:
        """SLURM's commands on it; as on a cluster without accounting, or soon giving up when no controller answers."""
        assert accounting or patient
        layout = self.layout
        path = layout.slurm_conf if patient else layout.slurm_conf_impatient
        return ClusterCommands({"SLURM_CONF": str(path if accounting else layout.slurm_conf_without_accounting)})

    def ask(self, *words: str, cwd: Path | None = None) -> str:
        """Run one of SLURM's commands and give what it says.

        Raises:
            ClusterError: it did not end with 0.
        """
        done = subprocess.run(
            words, cwd=cwd, env=self._variables(), capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode != 0:
            raise ClusterError(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout.strip()

    def start_controller(self, *, wait: bool = True) -> None:
        """Start slurmctld, on what it had saved; back when it answers."""
        self._run_daemon("slurmctld", "slurmctld", "-D")
        if wait:
            self._wait("slurmctld", lambda: self._try("scontrol", "ping"))

    def stop_controller(self) -> None:
        """End slurmctld; jobs run on, and nobody can ask."""
        self._end("slurmctld")

    def start_accounting(self) -> None:
        self._run_daemon("slurmdbd", "slurmdbd", "-D")
        self._wait("slurmdbd", lambda: self._try("sacctmgr", "-n", "list", "cluster"))

    def stop_accounting(self) -> None:
        """End slurmdbd: sacct cannot connect; slurmctld keeps what it wants to tell it."""
        self._end("slurmdbd")

    def kill_node(self, node: str) -> None:
        """Take a node's power: slurmd and all that its jobs run die at once, without a word."""
        daemon = self._daemons.pop(f"slurmd {node}")
        daemon.kill()
        daemon.wait()
        self._kill_jobs_of(node)

    def revive_node(self, node: str) -> None:
        """Give the power back; back when the node takes jobs."""
        self._start_node(node)
        self._wait(node, lambda: node in self._idle_nodes(("idle", "mix", "alloc")))

    def _write_files(self) -> None:
        layout = self.layout
        # Everybody may reach the sockets; what is private in it has its own mode.
        layout.root.chmod(0o755)
        for folder in (
            "etc",
            "etc-without-accounting",
            "etc-impatient",
            "log",
            "run",
            "state",
            "spool",
            "dev",
            "munge",
        ):
            layout.path(folder).mkdir()
        layout.path("munge").chmod(0o700)
        _write_private(layout.path("munge", "key"), os.urandom(128))
        for number in range(layout.gpus):
            # A device that reads as empty is enough of a GPU for SLURM; a plain file where devices are not allowed.
            device = layout.path("dev", f"nvidia{number}")
            try:
                os.mknod(device, 0o666 | 0o020000, os.makedev(1, 3))
            except PermissionError:
                device.touch()
        layout.slurm_conf.write_text(settings.slurm_conf(layout))
        layout.slurm_conf_without_accounting.write_text(settings.slurm_conf(layout, accounting=False))
        layout.slurm_conf_impatient.write_text(settings.slurm_conf(layout, patient=False))
        layout.path("etc", "gres.conf").write_text(settings.gres_conf(layout))
        layout.path("etc", "cgroup.conf").write_text(settings.cgroup_conf(layout))
        _write_private(layout.path("etc", "slurmdbd.conf"), settings.slurmdbd_conf(layout).encode())

    def _start_database(self) -> None:
        root = self.layout.root
        words = ("mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={root}/database", "--skip-test-db")
        self.ask(*words, "--auth-root-authentication-method=normal")
        self._run_daemon("mariadbd", *settings.database_words(self.layout))
        client = ("mariadb", "--no-defaults", "-u", "root", "-S", f"{root}/run/mariadb.sock", "-e")
        self._wait("mariadbd", lambda: self._try(*client, "select 1"))
        self.ask(*client, settings.DATABASE_SQL)

    def _make_accounts(self) -> None:
        """The cluster, an account for this user, and a quality of service with a small limit."""
        name = f"touchline{self.layout.base_port}"
        self.ask("sacctmgr", "-i", "add", "cluster", name)
        self.ask("sacctmgr", "-i", "add", "account", ACCOUNT)
        self.ask("sacctmgr", "-i", "add", "qos", LIMITED_QOS, f"MaxSubmitJobsPerUser={LIMITED_JOBS}")
        self.ask("sacctmgr", "-i", "add", "user", "root", f"account={ACCOUNT}", f"qos=normal,{LIMITED_QOS}")
        self.ask("sacctmgr", "-i", "modify", "user", "root", "set", f"qos=normal,{LIMITED_QOS}")

    def _start_node(self, node: str) -> None:
        self._run_daemon(f"slurmd {node}", "slurmd", "-D", "-N", node)

    def _run_daemon(self, name: str, *words: str) -> None:
        """Start a daemon in a session of its own, where Ctrl-C does not reach it."""
        log = self.layout.path("log", f"{name.replace(' ', '-')}.started")
        with log.open("ab") as stream:
            self._daemons[name] = subprocess.Popen(
                ("setpriv", "--pdeathsig", "TERM", *words),
                env=self._variables(),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _end(self, *names: str) -> None:
        """TERM to these daemons, KILL to those that do not heed it."""
        daemons = [self._daemons.pop(name) for name in names if name in self._daemons]
        for daemon in daemons:
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _end_jobs(self) -> None:
        jobs = self.ask("squeue", "-h", "-o", "%A").split()
        if jobs:
            self.ask("scancel", *sorted(set(jobs)))
            with suppress(ClusterError):
                self._wait("the jobs' end", lambda: not self.ask("squeue", "-h", "-t", "R,CG"), seconds=10)

    def _kill_jobs_of(self, node: str) -> None:
        """End what a node's jobs run, and the shepherds that SLURM keeps with them.

        A shepherd is known by its socket, which lies in the node's own folder: job ids alone would be those of other
        clusters too.
        """
        spool = str(self.layout.path("spool", node)) + os.sep
        doomed: list[psutil.Process] = []
        for process in psutil.process_iter(["name"]):
            with suppress(psutil.Error):
                if process.info["name"] == "slurmstepd" and any(
                    str(link.laddr).startswith(spool) for link in process.net_connections("unix")
                ):
                    doomed += [process, *process.children(recursive=True)]
        # Power is gone for all at once: none may still do something because another one died before it.
        for process in doomed:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        # Children first: when a shepherd dies before them, the kernel hangs up on its stopped children and wakes them.
        for process in reversed(doomed):
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def _idle_nodes(self, states: Sequence[str] = ("idle",)) -> set[str]:
        try:
            lines = self.ask("sinfo", "-h", "-N", "-o", "%N %t").splitlines()
        except ClusterError:
            return set()
        return {line.split()[0] for line in lines if line.split()[1] in states}

    def _try(self, *words: str) -> bool:
        try:
            self.ask(*words)
        except (ClusterError, subprocess.TimeoutExpired):
            return False
        return True

    def _wait(self, what: str, true: Callable[[], bool], *, seconds: float = START_SECONDS) -> None:
        end = time.monotonic() + seconds
        while not true():
            dead = [name for name, daemon in self._daemons.items() if daemon.poll() is not None]
            if dead or time.monotonic() > end:
                why = f"{', '.join(dead)} ended" if dead else f"no answer within {seconds:.0f} s"
                raise ClusterError(f"{what} did not come up: {why}\n{self._logs()}")
            time.sleep(0.05)

    def _logs(self) -> str:
        ends = []
        for path in sorted(self.layout.path("log").glob("*")):
            lines = path.read_text(errors="replace").splitlines()[-8:]
            ends += [f"--- {path.name}", *lines] if lines else []
        return "\n".join(ends)

    def _variables(self) -> dict[str, str]:
        path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
        return {**os.environ, **self.environment, "PATH": path, "LC_ALL": "C"}


def has_cgroup() -> bool:
    """Whether control groups of version 1 are here, and this user may make some."""
    memory = Path("/sys/fs/cgroup/memory/cgroup.procs")
    parts = (memory, Path("/sys/fs/cgroup/freezer"), Path("/sys/fs/cgroup/cpuset"))
    return all(os.access(part, os.W_OK) for part in parts)


def remove_cgroups(nodes: Iterable[str]) -> None:
    """Remove the control groups of nodes that are no more."""
    for node in nodes:
        for top in Path("/sys/fs/cgroup").glob(f"*/slurm_{node}"):
            for folder, _, _ in os.walk(top, topdown=False):
                with suppress(OSError):
                    Path(folder).rmdir()


def _hold_ports() -> tuple[socket.socket, int]:
    """A base port with free ports above it; the socket on the base itself keeps other suites away while it is open."""
    bases = list(PORTS)
    random.Random(os.getpid()).shuffle(bases)
    for base in bases:
        held = _bound(base)
        if held is None:
            continue
        if all(_is_free(base + number) for number in range(1, settings.NODES + len(settings.NODE_LETTERS))):
            return held, base
        held.close()
    raise ClusterError(f"no free ports between {PORTS.start} and {PORTS.stop}")


def _is_free(port: int) -> bool:
    bound = _bound(port)
    if bound is not None:
        bound.close()
    return bound is not None


def _bound(port: int) -> socket.socket | None:
    one = socket.socket()
    try:
        one.bind(("127.0.0.1", port))
        one.listen()
    except OSError:
        one.close()
        return None
    return one


def _write_private(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)


def main() -> int:
    """Start a cluster, say how to reach it, and keep it until Ctrl-C or TERM."""
    why = packages.unavailable() or packages.install()
    if why is not None:
        sys.stderr.write(f"no SLURM: {why}\n")
        return 1
    # Ctrl-C too: what a shell without a terminal starts in the background ignores it, and `make test` starts us so.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    began = time.monotonic()
    with suppress(KeyboardInterrupt), Cluster() as cluster:
        sys.stderr.write(f"up in {time.monotonic() - began:.1f} s; Ctrl-C ends it\n")
        sys.stdout.write(f"export SLURM_CONF={cluster.layout.slurm_conf}\n")
        sys.stdout.flush()
        while True:
            signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
