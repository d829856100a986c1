"""Lines about the end of a run that no trainer prints: exceptions, memory, disk, nan, signals, failed commands.

A scheduler's lines are read in `slurm_lines`. Whether an error was survived is not known here: training steps
that follow show it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import ClassVar

from touchline.backends.logtext.events import Row
from touchline.backends.logtext.parts import strip_prefix
from touchline.backends.registry import launch_commands
from touchline.core.observation import During, Event, Sign, SignKind
from touchline.history.slurm_lines import exit_code
from touchline.history.tracebacks import WORDS as MILESTONE_WORDS
from touchline.history.tracebacks import TracebackEnd, Tracebacks, is_launcher, milestone

_GPU = re.compile(
    r"\b(?:CUDA|HIP|XPU|NPU|MLU|MUSA|GCU|MPS backend|ROCm) out of memory"
    r"|(?:CUDA|HIP|cuda)(?: driver| runtime)? (?:error|failure)(?: \d+)?(?: \(\d+\))? ?: '?out of memory"
    r"|Cuda failure (?:\d+ )?'out of memory'|CUDA failed with error out of memory"
    r"|CU(?:BLAS|DNN|SOLVER)_STATUS_ALLOC_FAILED|(?:cuda|hip)Error(?:MemoryAllocation|OutOfMemory)"
    r"|RESOURCE_EXHAUSTED: Out of memory|ErrorOutOfMemory\b"
    r"|\[METAL\] Command buffer execution failed: Insufficient Memory"
    r"|Allocation on device .{0,60}(?:out of memory|would exceed allowed memory)"
)
_GPU_ALONE = re.compile(
    r"\b(?:CUDA|HIP|XPU|NPU|MPS backend) out of memory(?:\. Tried to allocate \d| \(MPS allocated)"
    r"|\[METAL\] Command buffer execution failed: Insufficient Memory"
    r"|NCCL WARN Cuda failure (?:\d+ )?'out of memory'|^(?:Error|error) out of memory at line \d+ in file "
)
_HOST = re.compile(
    r"DefaultCPUAllocator: (?:can't allocate memory|not enough memory)|std::bad_alloc"
    r"|Cannot allocate memory(?! in static TLS)|is killed by signal: (?:Killed|Bus error)"
    r"|insufficient shared memory \(shm\)|Unable to allocate \S+ [KMGTP]i?B for an array"
    r"|Out of memory: Kill(?:ed)? process \d+|^memory allocation of \d+ bytes failed"
    r"|Your session crashed after using all available RAM|Your notebook tried to allocate more memory than is available"
)
_DISK = re.compile(
    r"Disk quota exceeded|No space left on device|\[Errno (?:28|122)\](?! inotify)|\(os error (?:28|122)\)"
    r"|FilesystemQuotaExceeded|PytorchStreamWriter failed writing"
    r"|inline_container\.cc.{0,20}unexpected pos|Not enough disk space\. Needed"
)
_NAN = re.compile(
    r"(?:\b(?P<of>[a-z_]+)\W{1,3})?\bloss(?: is|:| =|=)[ \t]*[-+]?(?:nan|inf)\b"
    r"|\bloss (?:is|became|was|turned|went|has become)(?: now| to)? (?:nan|inf|infinite|non-finite|not finite)\b"
    r"|\b(?:nan|non-finite|infinite) (?:train(?:ing)? )?loss"
    r"(?:[,.!:]|$| (?:detected|encountered|found|at|in|during|on)\b)"
    r"|\bnan or inf found in input tensor|\b(?:loss|training) (?:has )?diverged\b"
    r"|Current loss scale already at minimum - cannot decrease scale",
    re.IGNORECASE,
)
_NO_TRAINING_LOSS = frozenset(
    {
        *("best", "min", "minimum", "lowest", "val", "valid", "validation", "eval", "evaluation", "test", "dev"),
        *("prev", "previous", "initial", "early"),
    }
)
_STEP = re.compile(r"\b(?:global[ _])?(?:step|iter|iteration)\b\s*[:=#]?\s*(?P<step>\d{1,9})\b", re.IGNORECASE)

# -------------------------------------------------------------------------------------- lines without a traceback

_BY_SHELL = r"(?:\S+: line \d+: +\d+ |\[\d+\][+-]? +(?:\d+ )?)"
KILLED = re.compile(rf"(?:{_BY_SHELL}Killed\b|Killed$|mpirun noticed that process .* exited on signal 9 )")
"""SIGKILL from outside."""
TERMINATED = re.compile(rf"(?:{_BY_SHELL}Terminated\b|Terminated$)")
"""SIGTERM from outside."""
SIGNALS = re.compile(
    r"\^C|KeyboardInterrupt(?:$|:)|Aborted!$"
    r"|(?=.{0,200}(?:[Rr]eceived|RECEIVED|[Cc]aught|[Gg]ot) (?:an? )?"
    r"(?:[Ss]ignal:? (?:SIG)?(?:TERM|INT|HUP|QUIT|Terminated|Interrupt|15|2)|(?:Signals\.)?SIG(?:TERM|INT|HUP|QUIT))\b)"
    r"|(?=.{0,200}\bclosing signal SIGINT)|(?=.{0,80}\bSIGTERM (?:signal )?received)"
    r"|\W{0,6}(?:Training|Run|Execution|Process) (?:was )?interrupted\b"
)
"""Message of a program that was interrupted."""
ELASTIC = re.compile(r"failed \(exitcode: (?P<code>-?\d{1,3})\) local_rank: \d+ \(pid: \d+\)")
"""torch elastic's first failed child."""
ELASTIC_CODE = re.compile(r"^\s*exitcode\s*: (?P<code>-?\d{1,3}) \(pid: \d+\)")
"""A child in torch elastic's report."""
ELASTIC_KILLED = re.compile(r"Signal 9 \(SIGKILL\) received by PID \d+")
"""A child that torch elastic found killed."""
LAUNCHER_CODE = re.compile(r"\bexits with return code = (?P<code>-?\d{1,3})$")
"""A launcher's report on a child."""
LAUNCHER_KILLS = ":sigkill_handler] Killing subprocess"
"""A launcher's report that it ends all children: after one has failed, or after a signal that its last line names."""
LAUNCHER_DONE = re.compile(r"\[launch\.py:\d+:main\] Process \d+ exits successfully\.")
"""A launcher's report on a child that ended well."""
_OWN = "".join(f"|{each.own_files.partition('/')[0]}" for each in launch_commands() if each.own_files)
_LIBRARIES = rf"(?:torch|safetensors_rust|huggingface_hub|transformers|datasets|accelerate|jaxlib{_OWN})"
_ALONE = re.compile(
    rf"{_LIBRARIES}\.[\w.]*(?:Error|Exception)(?::|$)"
    r"|(?:RuntimeError|OutOfMemoryError|AcceleratorError): "
    r"(?:CUDA|HIP|NCCL|cuDNN|CUDNN|MPS|XPU|NPU|DataLoader worker|\[enforce)"
    r"|(?:ModuleNotFoundError|ImportError): "
)
_COMMANDS = "|".join(re.escape(each.name) for each in launch_commands())
_LAUNCHED = rf"(?:python[\d.]*|conda|mamba|micromamba|torchrun|accelerate|mpirun|{_COMMANDS}|uv)"
_CRASHES = re.compile(
    rf"(?:{_BY_SHELL})?(?:Segmentation fault|Illegal instruction|Bus error|Floating point exception|Aborted)"
    r"(?:\s+\(core dumped\)(?:\s|$)|$)"
    rf"|{_BY_SHELL}(?:Segmentation fault|Illegal instruction|Bus error|Aborted)\s"
    r"|Fatal Python error: |terminate called after throwing an instance of|!{3,} Segfault encountered"
    r"|(?:free|munmap_chunk|malloc)\(\): (?:invalid|corrupt)|double free or corruption|corrupted size"
    r"|.{0,200}(?:Watchdog caught collective operation timeout|watchdog thread terminated with exception)"
)
_NEVER_BEGAN = re.compile(
    r"[\w./ -]{1,80}: error: (?:unrecognized arguments|the following arguments are required|argument \S"
    r"|ambiguous option|one of the arguments|too few arguments|invalid choice)"
    r"|Error: (?:No such (?:option|command)|Missing (?:option|argument)|Invalid value for|Got unexpected extra)"
    rf"|(?:\S*/)?{_LAUNCHED}: (?:can't open file|No module named |Error while finding module)"
    rf"|\S+: (?:line \d+: )?(?:\S*/)?{_LAUNCHED}: (?:command not found|not found|No such file or directory)$"
    rf"|zsh(?::\d+)?: command not found: {_LAUNCHED}$"
    r"|CommandNotFoundError: |EnvironmentNameNotFound: |EnvironmentLocationNotFound: "
)
"""A program that was not found, or refused its arguments."""
COMMANDS = re.compile(
    r"(?:/usr)?(?:/bin/)?(?:mv|cp|rm|ln|mkdir|rmdir|cat|tar|rsync|scp|sftp|ls|cd|touch|chmod|chgrp|chown|gzip|gunzip|unzip"
    r"|zip|sed|grep|find|wget|source|module|gsutil|head|tail|tee|stat): "
    r"(?=.{0,1000}(?:are the same file|cannot |can't |No such file|Permission denied|not permitted|File exists|missing "
    r"|omitting directory|[Ff]ail|[Ee]rror|No space|quota|Not a directory|Is a directory|unrecognized option|invalid "
    r"|busy|will not overwrite|not recoverable))"
    r"|rsync error: |curl: \(\d+\) |make: \*\*\* |Lmod has detected the following error"
    r"|(?:ModuleCmd_Load\S* ?)?ERROR:? ?(?:\d+: )?Unable to locate a modulefile"
    r"|-?(?:\S*/)?(?:bash|sh|dash|zsh|ksh|slurm_script|[\w.-]+\.(?:sh|slurm|sbatch|bash|job|lsf|pbs|sub)"
    r"|\d+\.\S+\.SC): "
    r"(?:eval: )?(?:line \d+: |\d+: )?\S.{0,500}: "
    r"(?:command not found|not found|No such file or directory|Permission denied|Is a directory|cannot execute.{0,40}"
    r"|unbound variable|ambiguous redirect|Argument list too long)$"
    r"|zsh(?::\d+)?: command not found: \S+$"
)
"""A command of the job's script failed."""
_ERROR_WORD = re.compile(
    r"\W{0,6}(?:[\w.]*(?:Error|Exception)\b|ERROR|Error|error|FATAL|Fatal|what\(\)|OOM|Failed|FAILED|Training failed)"
)
RETURNED = re.compile(r"returned non-zero exit status (?P<code>\d{1,3})\b|died with <Signals\.(?P<signal>SIG\w+)")
"""End of a child, by `subprocess`."""


def causes_of(text: str, name: str) -> list[SignKind]:
    """Return the causes that an error's text names; `name` is the exception's class, if there is one."""
    kinds: list[SignKind] = []
    if _GPU.search(text) or name == "OutOfMemoryError":
        kinds.append(SignKind.GPU_OOM)
    elif _HOST.search(text) or name.endswith("MemoryError"):
        kinds.append(SignKind.HOST_OOM)
    if _DISK.search(text):
        kinds.append(SignKind.DISK_FULL)
    nan = _NAN.search(text)
    if name == "FloatingPointError" or (nan is not None and (nan.group("of") or "").lower() not in _NO_TRAINING_LOSS):
        kinds.append(SignKind.NOT_A_NUMBER)
    return kinds


def fatal(rest: str) -> tuple[bool, During | None]:
    """Return whether a line without a traceback reports a program's end by an error."""
    if _ALONE.match(rest) is not None:
        return True, "load" if rest.startswith(("ModuleNotFoundError", "ImportError")) else None
    if _NEVER_BEGAN.match(rest) is not None:
        return True, "load"
    return _CRASHES.match(rest) is not None, None


def step_of(text: str) -> int | None:
    """Return the step that a line names."""
    match = _STEP.search(text)
    return None if match is None else int(match.group("step"))


def is_gpu_alone(prefix: str, rest: str) -> bool:
    """Return True if a line about the GPU's memory, without a traceback, is an error and no advice."""
    level = any(word in prefix for word in ("ERROR", "CRITICAL", "FATAL"))
    return level or _GPU_ALONE.search(rest) is not None or _ERROR_WORD.match(rest) is not None


_TEXT_LIMIT = 300
_READ_LIMIT = 8192
_ECHO_LINES = 60
"""Lines after an error within which `Training complete` proves nothing: a job's script prints it whatever happened."""
_GUESS_LINES = 300
"""A process that was killed so soon after an exception was killed for it, and not for want of memory."""
_NOT_SAID = ("{", '"', "raise ", "# ", "print(", "logger.", "logging.", "assert ", "except ", "if ", "elif ")
"""Beginnings of data, and of a program's text."""
_HARMLESS = re.compile(r"\b(?:WARN|WARNING|INFO|DEBUG)\b")
"""Levels of messages that end nothing, whatever exception they name."""
_BAR_WITH_NAN = re.compile(r"\bloss\W{1,3}nan\b", re.IGNORECASE)

_SCHEDULERS = re.compile(r"\bslurm(?:step)?d(?:-[\w.-]+)?: |\bs(?:run|batch|alloc): ")

_WORDS = """
    traceback ctraceback file handling cause ignored atexit logging packages ipython ipykernel cell │
    cuda hip xpu npu rocm resource_exhausted oom gib mib requested allocated unallocated cublas_status_alloc_failed
    cudnn_status_alloc_failed defaultcpuallocator bad_alloc allocate killed kill shm session notebook
    space quota filesystemquotaexceeded errno pytorchstreamwriter inline_container
    nan inf infinite finite diverged
    c interrupted sigkill_handler sigterm sigint signal signals terminated aborted exitcode sigkill exits
    terminating metal insufficient
    segmentation segfault fatal bus illegal terminate corruption corrupted watchdog
    unrecognized arguments argument option found open module such
    same cannot denied permitted exists omitting rsync recoverable curl unbound lmod modulefile failed directory
    execute make missing commandnotfounderror environmentnamenotfound environmentlocationnotfound
"""
# Below a traceback's first line every line is read (`inside`): these are of exceptions whose first line is cut off.
_EXCEPTIONS = """
    accelerator assertion attribute calledprocess childfailed connection distbackend eof filenotfound floatingpoint
    import index io key memory modulenotfound name notimplemented os outofmemory permission repositorynotfound runtime
    syntax type unboundlocal unicodedecode value zerodivision
"""
_OTHER_EXCEPTIONS = "exception keyboardinterrupt systemexit signalexception processraisedexception"


class Faults:
    """Signs of errors, ends and failed commands."""

    words: ClassVar[frozenset[str]] = (
        frozenset(_WORDS.split())
        | frozenset(f"{name}error" for name in _EXCEPTIONS.split())
        | frozenset(_OTHER_EXCEPTIONS.split())
        | MILESTONE_WORDS
    )

    def __init__(self) -> None:
        self._tracebacks = Tracebacks()
        self._fault_line = -_GUESS_LINES

    @property
    def inside(self) -> bool:
        """Return True if the next lines all matter: a traceback whose exception is still to come."""
        return self._tracebacks.inside

    def row(self, row: Row, text: str, number: int) -> Iterable[Event]:
        """Return no events: dictionaries belong to the trainers' readers."""
        return ()

    def line(self, text: str, number: int) -> Iterable[Event]:
        """Return the events of a line."""
        if _SCHEDULERS.search(text):
            return ()
        if "%|" in text and not _BAR_WITH_NAN.search(text):
            # What follows a bar on its line was written by somebody else.
            text = text.rpartition("]")[2]
            if not text.strip():
                return ()
        fault = self._tracebacks.line(text[:_READ_LIMIT], number)
        if fault is not None:
            return tuple(self._of_traceback(fault, text))
        return tuple(self._alone(text[:_READ_LIMIT], number))

    def cut(self, number: int) -> Iterator[Event]:
        """Yield the events of tracebacks that are cut off at the file's last line."""
        for fault in self._tracebacks.cut(number):
            yield from self._of_traceback(fault, f"{fault.text} (the traceback is cut off here)")

    # ------------------------------------------------------------------------------------------------- with a traceback

    def _of_traceback(self, fault: TracebackEnd, text: str) -> Iterator[Event]:
        line, during = fault.line, fault.during
        name = fault.name.rpartition(".")[2]
        causes = causes_of(fault.text, name)
        if name == "SystemExit" and fault.text.rpartition(":")[2].strip() in ("SystemExit", "0", "None"):
            return
        fault_line = self._fault_line if fault.survived else line
        if name in ("KeyboardInterrupt", "SignalException"):
            self._fault_line = fault_line
            if not fault.survived:
                yield _sign(SignKind.INTERRUPTED, text, line, during=during)
            return
        if name in ("ChildFailedError", "ProcessRaisedException", "ProcessExitedException") or (
            name == "CalledProcessError" and is_launcher(fault.frames)
        ):
            yield from self._child_failed(fault.text, line)
            self._fault_line = fault_line
            return
        self._fault_line = fault_line
        if fault.root is None:
            if not fault.survived:
                yield _sign(SignKind.EXCEPTION, text, line, during=during, is_uncaught=fault.is_uncaught)
        elif not fault.survived and (
            (fault.is_uncaught and not fault.root.is_uncaught) or (fault.root.during is None and during is not None)
        ):
            # The frames of the last exception of a chain begin further outside, and know where the first was raised.
            fault.root.during = fault.root.during or during
            for kind in (SignKind.EXCEPTION, *causes_of(fault.root.text, fault.root.name.rpartition(".")[2])):
                yield _sign(
                    kind,
                    fault.root.text,
                    fault.root.line,
                    during=fault.root.during,
                    is_uncaught=fault.is_uncaught,
                )
        known = () if fault.root is None else causes_of(fault.root.text, fault.root.name.rpartition(".")[2])
        for kind in causes:
            if kind not in known:
                yield _sign(kind, text, line, during=during, step=step_of(text), is_uncaught=fault.is_uncaught)

    def _child_failed(self, text: str, line: int) -> Iterator[Event]:
        """Yield the events of a launcher's report on a failed child, which raised its own exception before."""
        yield _sign(SignKind.TASK_FAILED, text, line)
        returned = RETURNED.search(text)
        if returned is None:
            return
        if returned.group("code"):
            yield exit_code(returned.group("code"), line)
        elif returned.group("signal") == "SIGKILL":
            yield from self._killed(text, line)

    # ---------------------------------------------------------------------------------------------- without a traceback

    def _alone(self, text: str, number: int) -> Iterator[Event]:
        _, rest = strip_prefix(text)
        if rest.lstrip().startswith(_NOT_SAID):
            return
        if (kind := milestone(text)) is not None:
            if kind is not SignKind.TRAINED or number - self._fault_line >= _ECHO_LINES:
                yield _sign(kind, text, number)
            return
        causes = [
            kind
            for kind in causes_of(rest, "")
            if kind is not SignKind.GPU_OOM or is_gpu_alone(text[: -len(rest)], rest)
        ]
        is_fatal, during = fatal(rest)
        is_fatal = is_fatal and _HARMLESS.search(text[: -len(rest)]) is None
        if is_fatal:
            yield _sign(SignKind.EXCEPTION, text, number, during=during)
        for kind in causes:
            yield _sign(kind, text, number, step=step_of(text) if kind is SignKind.NOT_A_NUMBER else None)
        if is_fatal or SignKind.GPU_OOM in causes or SignKind.HOST_OOM in causes:
            self._fault_line = number
        if not is_fatal:
            yield from self._signals(text, rest, number)
            if COMMANDS.match(rest) is not None:
                yield _sign(SignKind.FAILED_COMMAND, text, number)

    def _signals(self, text: str, rest: str, number: int) -> Iterator[Event]:
        if KILLED.match(rest) is not None:
            yield from self._killed(text, number)
        elif TERMINATED.match(rest) is not None or SIGNALS.match(rest) is not None:
            self._fault_line = number
            yield _sign(SignKind.INTERRUPTED, text, number)
        elif (failed := ELASTIC.search(rest) or LAUNCHER_CODE.search(rest)) is not None:
            if failed.group("code") == "0":
                return
            yield exit_code(failed.group("code"), number)
            if failed.group("code") == "-9":
                yield from self._killed(text, number)
            yield _sign(SignKind.TASK_FAILED, text, number)
            self._fault_line = number
        elif LAUNCHER_KILLS in text:
            yield _sign(SignKind.TASK_FAILED, text, number)
        elif LAUNCHER_DONE.search(text) is not None:
            yield _sign(SignKind.DONE, text, number)
        elif (code := ELASTIC_CODE.match(rest)) is not None:
            yield exit_code(code.group("code"), number)
        elif ELASTIC_KILLED.search(rest) is not None:
            yield from self._killed(text, number)

    def _killed(self, text: str, number: int) -> Iterator[Event]:
        """Yield a guess at SIGKILL: without an earlier failure it usually comes from the kernel, short of memory."""
        guess = number - self._fault_line >= _GUESS_LINES
        self._fault_line = number
        yield _sign(SignKind.HOST_OOM if guess else SignKind.TASK_FAILED, text, number)


def _sign(
    kind: SignKind,
    text: str,
    number: int,
    *,
    during: During | None = None,
    step: int | None = None,
    is_uncaught: bool = False,
) -> Sign:
    return Sign(
        kind=kind, line=number, text=text.strip()[:_TEXT_LIMIT], during=during, step=step, is_uncaught=is_uncaught
    )
