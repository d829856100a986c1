"""The words of errors: memory of host and GPU, disk, nan, signals, crashes of native code, failed commands.

Patterns that stand for themselves begin at a line's beginning, for the same words stand in advice, in data and in what
models write.
"""

from __future__ import annotations

import re

from touchline.backends.registry import launch_commands
from touchline.core.observation import During, SignKind

# --------------------------------------------------------------------------------------- causes that name themselves

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
