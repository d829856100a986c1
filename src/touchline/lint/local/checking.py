"""Check of files: files to views, views to findings. Reports every fault of every file in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from touchline.backends.config_reading import ConfigFormat
from touchline.backends.external import Validator
from touchline.backends.registry import config_formats, launch_commands, validator_of
from touchline.core.callbacks import MessageCallback, NamedProgressCallback, ignore_message
from touchline.core.errors import HostError, InputError, StoppedError
from touchline.core.files import read_text_bounded
from touchline.core.finding import Finding, Location, Severity
from touchline.core.json_text import parse_json
from touchline.core.quantity import Missing
from touchline.core.units import plural
from touchline.data.readers import WHOLE
from touchline.data.user_config import UserConfig
from touchline.estimate.gpus import Gpu, find_gpu, similar_gpus
from touchline.experiment.document import SIZE_LIMIT_BYTES
from touchline.experiment.foreign import ForeignDocument, ForeignFileError, parse_foreign
from touchline.experiment.partial import StatedTraining
from touchline.experiment.requests import CheckRequest
from touchline.lint.check import CheckReport, agrees, stated_alike, summary_of
from touchline.lint.checked import chosen, in_order, row_of
from touchline.lint.local.audit import data_findings, tree_findings
from touchline.lint.local.checking_experiment import surroundings_of
from touchline.lint.local.dataset_files import PLANS, DatasetFiles, FoundFile, find_files, is_dataset, unfinished
from touchline.lint.local.local_files import absent_files, checkpoint_findings_of, data_findings_of
from touchline.lint.local.lookup import Lookup, sibling_of, surroundings
from touchline.lint.local.parity import Parity
from touchline.lint.local.planned_experiment import Decided, PlannedExperiment, check_experiment
from touchline.lint.local.programs import NOT_CHECKED, find_shellcheck, shell_findings, validate
from touchline.lint.local.scoring import file_findings, split_target, text_findings
from touchline.lint.projects import FolderView, Sibling, TextFile
from touchline.lint.rule import check_view
from touchline.lint.scoring import is_task_file
from touchline.lint.scripts import ScriptView, trained_at_once
from touchline.lint.training import DataFacts, Surroundings, TrainingView
from touchline.slurm.resources import requested
from touchline.slurm.script import Script, is_job_script, read_script

_ENOUGH_KEYS = 3
_VALIDATED = 4
PLAN_LIMIT_BYTES = 64 << 20
"""Maximum size of a plan. A plan of a thousand runs has some megabytes."""
_OF_A_RUN = frozenset({"finetune.yaml", "run.yaml", "setup_finetune.yaml"})
_OURS = frozenset({"data", "models", "name", "task", "factors", "pairs", "controls"})
"""Keys of experiment.yaml. A file with three of them counts as one, regardless of its name."""
_ARGUMENTS = (
    *("per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "learning_rate", "output_dir"),
    *("model_name_or_path", "lr_scheduler_type", "logging_steps", "save_steps"),
)
_ANSWERS = "samples.jsonl"
"""File of model answers, which results write beside the plan. It is not a dataset."""
EXPERIMENT = "experiment.yaml"
_CONFIG_ENDINGS = frozenset({".yaml", ".yml", ".json"})


def check_paths(
    paths: Sequence[Path],
    settings: UserConfig,
    request: CheckRequest,
    decided: Callable[[Path], Decided],
    on_message: MessageCallback = ignore_message,
    on_progress: NamedProgressCallback | None = None,
) -> tuple[CheckReport, list[Finding]]:
    """Check files and folders. Only the code of a task file that is named itself is run.

    Where it is stopped by a `StoppedError`, what was found until then is returned, with an error that says so.

    Args:
        on_message: receives a line before the code of a task file runs, and one if ShellCheck is missing.
        on_progress: receives the number of checked files, of all, and the next one.

    Returns:
        The report, and its findings with their fixes.

    Raises:
        InputError: a path does not exist, or an option is wrong.
    """
    tasks = [path for path in paths if is_task_target(path)]
    checker = _Checker(settings, request, decided)
    for path in tasks:
        on_message(f"running the code of {path} to test its scorers")
        checker.task(path)
    paths = [path for path in paths if path not in tasks]
    files: tuple[FoundFile, ...] = ()
    done = 0
    try:
        files, findings = find_files(paths)
        checker.findings += findings
        # Scripts come first, since they name the machine for the configs that they start.
        for done, file in enumerate(sorted(files, key=lambda file: file.kind != "script")):
            if on_progress is not None:
                on_progress(done, len(files), str(file.path))
            checker.file(file)
        done = len(files)
        if paths:
            checker.together(paths)
    except StoppedError:
        said = f"not everything was checked: it was stopped when {done:,} of {len(files):,} files were read"
        checker.findings.append(unfinished(paths[0], said))
    if checker.lacks_shellcheck:
        on_message(NOT_CHECKED)
    shown = in_order(chosen(checker.findings, request))
    return _to_check_report(shown, checker), shown


def _to_check_report(shown: Sequence[Finding], checker: _Checker) -> CheckReport:
    broken = {finding.where.path for finding in shown if finding.severity is Severity.ERROR and finding.where}
    return CheckReport(
        findings=tuple(row_of(finding) for finding in shown),
        configs=(
            *(replace(summary_of(view), passed=view.stated.where.path not in broken) for view in checker.views),
            *(config for experiment in checker.experiments for config in experiment.rows()),
        ),
        files=checker.files,
        errors=sum(finding.severity is Severity.ERROR for finding in shown),
        warnings=sum(finding.severity is Severity.WARNING for finding in shown),
    )


class _Checker:
    """Checker of single files, then of relations between files."""

    def __init__(self, settings: UserConfig, request: CheckRequest, decided: Callable[[Path], Decided]) -> None:
        self._settings = settings
        self._request = request
        self._decided = decided
        self._around = surroundings(request.gpu, request.cpus)
        self._lookup = Lookup(settings)
        self._parity = Parity(settings.models_dir)
        self._siblings: list[Sibling] = []
        self._shellcheck = find_shellcheck()
        self._scripts: list[tuple[Script, Path]] = []
        self._experiments: dict[Path, set[tuple[object, ...]]] = {}
        self._planned_for: dict[Path, Surroundings] = {}
        self._plans: list[TextFile] = []
        self._rows: list[Path] = []
        self._to_validate: list[tuple[Validator, ForeignDocument, bool]] = []
        self._read_by_experiments: set[Path] = set()
        self.findings: list[Finding] = []
        self.views: list[TrainingView] = []
        """Trainings of configs."""
        self.experiments: list[PlannedExperiment] = []
        self.files = 0

    def file(self, file: FoundFile) -> None:
        """Look at one file."""
        self.files += 1
        try:
            match file.kind:
                case "yaml" | "json":
                    self._config(file)
                case "script":
                    self._script(file)
                case "rows":
                    self._add_rows(file)
                case "plan":
                    self.files -= 1
                    text = read_text_bounded(file.path, PLAN_LIMIT_BYTES)
                    self._plans += [TextFile(path=str(file.path), text=text)]
                case "python":
                    self._python(file)
        except (HostError, InputError) as fault:
            self._tell("EX012", file.path, f"not checked ({fault.message})", Severity.WARNING, fault.hint)

    def task(self, path: Path) -> None:
        """Try a task file's scorers in a process of their own. The user named it, so its code is allowed to run."""
        self.files += 1
        try:
            self.findings += file_findings(str(path))
        except HostError as fault:
            self._tell("EX012", path, f"not checked ({fault.message})", Severity.WARNING, fault.hint)

    def _python(self, file: FoundFile) -> None:
        text = self._text(file) if file.path.stat().st_size <= SIZE_LIMIT_BYTES else None
        if text is None or not is_task_file(text):
            self.files -= 1
            return
        self.findings += text_findings(file.path)

    @property
    def lacks_shellcheck(self) -> bool:
        """Return True if scripts were checked without ShellCheck."""
        return bool(self._scripts) and self._shellcheck is None

    def together(self, paths: Sequence[Path]) -> None:
        """Look at what only several files show."""
        scripts = tuple(TextFile(path=each.path, text="\n".join(each.lines)) for each, _ in self._scripts)
        folder = FolderView(siblings=tuple(self._siblings), plans=tuple(self._plans), scripts=scripts)
        root = str(paths[0])
        self.findings += check_view(folder, Location(path=root), root)
        for script, place in self._scripts:
            self.findings += self._script_findings(script, place)
        rows = [path for path in self._rows if path.resolve() not in self._read_by_experiments]
        self.findings += tree_findings(rows, self._settings.cache_dir)
        self.findings += self._validated()
        for path in paths:
            if path.is_dir() and not self.files:
                titles = ", ".join(format_.title for format_ in config_formats())
                hint = f"known are experiment.yaml, {titles}"
                self._tell("EX013", path, "no config, script or data was found here", hint=hint)

    # ---- configs

    def _validated(self) -> Iterator[Finding]:
        """Run the trainers' own validators on a few configs; they take seconds per file."""
        few = len(self._to_validate) <= _VALIDATED
        absent: Missing | None = None
        for validator, document, named in self._to_validate:
            answer = (
                validate(validator, document) if named or few else Missing(missing="too many configs, name one alone")
            )
            if isinstance(answer, Missing):
                absent = absent or answer
            else:
                yield from answer
        if absent is not None:
            validator, document, _ = self._to_validate[0]
            message = f"{validator.trainer}'s own validator did not check it ({absent.missing})"
            where = Location(path=document.path)
            yield Finding(code="BK030", severity=Severity.INFO, subject=validator.title, message=message, where=where)

    def _config(self, file: FoundFile) -> None:
        text = self._text(file)
        if text is None:
            return
        if file.named and file.path.suffix not in _CONFIG_ENDINGS and is_job_script(text, str(file.path)):
            self._scripts.append((read_script(text, str(file.path), launch_commands()), file.path))
            return
        if file.kind == "json" and not text.lstrip().startswith("{"):
            self._add_rows(file)
            return
        try:
            document = parse_foreign(text, str(file.path), "pyyaml")
        except ForeignFileError as fault:
            if file.path.name == EXPERIMENT:
                self._experiment(file.path)
            elif file.kind == "json" and not _means_config(text):
                self._add_rows(file)
            else:
                self.findings.append(fault.finding)
            return
        format_ = format_of(document, file.path.name)
        if format_ is None:
            self._no_config(file, document)
            return
        self.findings += _strict_json(text, file)
        if format_.dialect != "pyyaml":
            document = parse_foreign(text, str(file.path), format_.dialect)
        reading = format_.read(document)
        self.findings += reading.findings
        validator = validator_of(format_.name)
        if validator is not None:
            self._to_validate += [(validator, document, file.named)]
        for training in reading.trainings:
            if self._is_planned(file, training):
                continue
            view = self._training(training, file.path.parent, self._around_of(file.path))
            self._siblings.append(sibling_of(view, file.path.parent, document))
            self.findings += data_findings_of(training, document, file.path.parent, format_.name)
            self.findings += self._parity.findings(training, file.path.parent)

    def _around_of(self, config: Path) -> Surroundings:
        """Return the machine of a config: of the experiment above it, else of the one job script that names it.
        Command-line options win.
        """
        planned = self._planned_for.get(config.parent.parent)
        if self._request.gpu == "auto" and planned is not None:
            count = self._around.gpu_count or planned.gpu_count
            return replace(self._around, gpu=planned.gpu, gpu_count=count, source=planned.source)
        named = [script for script, place in self._scripts if _same(str(config), _configs_of(script, place))]
        # Folders that a script builds from variables, or that are on another machine.
        named = named or [script for script, _ in self._scripts if _names_the_end(script, config.resolve())]
        if len(named) != 1:
            return self._around
        asked = requested(named[0].effective)
        gpu, source = self._around.gpu, self._around.source
        if self._request.gpu == "auto":
            similar = similar_gpus(asked.gpu_type or named[0].value("constraint") or "")
            found = find_gpu(similar[-1]) if similar else None  # of a name with two memories the larger one
            gpu, source = (found, "the job's script") if isinstance(found, Gpu) else (gpu, source)
        alone = len(named[0].launches) == 1
        count = asked.gpus if asked.gpus == 1 or alone else None
        says_cpus = named[0].effective.keys() & {"cpus-per-task", "cpus-per-gpu"} and not asked.has_whole_nodes
        cpus = asked.cpus_per_node if says_cpus else None
        return replace(
            self._around,
            gpu=gpu,
            gpu_count=self._around.gpu_count or count,
            cpus=self._request.cpus or cpus or self._around.cpus,
            at_once=trained_at_once(named[0]),
            source=source,
        )

    def _training(self, stated: StatedTraining, folder: Path, around: Surroundings | None = None) -> TrainingView:
        data = self._lookup.data(stated, folder)
        if isinstance(data, DataFacts):
            data = self._parity.with_longest_row(data, stated, folder)
        view = TrainingView(
            stated=stated,
            model=self._lookup.model(stated, folder),
            data=data,
            around=around or self._around,
        )
        self.views.append(view)
        self.findings += self._lookup.model_findings(stated, folder)
        self.findings += check_view(view, stated.where, stated.subject)
        self.findings += absent_files(stated, folder)
        self.findings += checkpoint_findings_of(stated, folder)
        return view

    def _is_planned(self, file: FoundFile, training: StatedTraining) -> bool:
        """Return True if a run's config agrees with the experiment above it, which is checked as a whole."""
        planned = self._experiments.get(file.path.parent.parent, set())
        if file.named or file.path.name not in _OF_A_RUN:
            return False
        if file.path.name == "finetune.yaml" and (file.path.parent / "run.yaml").is_file():
            return any(agrees(training, asked) for asked in planned)
        return stated_alike(training) in planned

    def _no_config(self, file: FoundFile, document: ForeignDocument) -> None:
        """Check a file of no trainer's format: our own experiment, data, or something else."""
        if file.path.name == EXPERIMENT or len(_OURS & document.data.keys()) >= _ENOUGH_KEYS:
            self._experiment(file.path)
        elif file.kind == "json" and is_dataset(file.path):
            self._add_rows(file)
        elif file.named:
            titles = ", ".join(config_format.title for config_format in config_formats())
            # A password file reads like a config: its text is not shown.
            message = f"not checked (unknown config, {plural(len(document.data), 'key')})"
            self._tell("EX013", file.path, message, Severity.INFO, f"known are experiment.yaml, {titles}")
        else:
            self.files -= 1

    def _add_rows(self, file: FoundFile) -> None:
        if file.named:
            files = DatasetFiles(path=file.path, files={WHOLE: file.path})
            self.findings += data_findings(files, cache_dir=self._settings.cache_dir)
        elif file.path.name == _ANSWERS and any((file.path.parent / name).is_file() for name in PLANS):
            self.files -= 1
        else:
            self._rows.append(file.path)

    def _experiment(self, path: Path) -> None:
        try:
            findings, found = check_experiment(path, self._settings, self._request, self._decided(path))
        except (HostError, InputError) as fault:
            self._tell("EX012", path, f"not checked ({fault.message})", hint=fault.hint)
            return
        self.findings += findings
        if found is not None:
            self._experiments[path.parent] = {stated_alike(view.stated) for view in found.views}
            self._planned_for[path.parent] = surroundings_of(found.seen)
            self.experiments.append(found)
            files = [file.path for each in found.seen.datasets.values() for file in each.all_files]
            self._read_by_experiments |= {(path.parent / file).resolve() for file in files}

    # ---- scripts

    def _script(self, file: FoundFile) -> None:
        text = self._text(file)
        if text is not None and (file.named or is_job_script(text, str(file.path))):
            self._scripts.append((read_script(text, str(file.path), launch_commands()), file.path))
        else:
            self.files -= 1

    def _script_findings(self, script: Script, path: Path) -> Iterator[Finding]:
        yield from check_view(ScriptView(script=script), Location(path=script.path), path.name)
        if len(self._scripts) <= _VALIDATED:
            yield from shell_findings(script, self._shellcheck)

    def _text(self, file: FoundFile) -> str | None:
        if file.path.stat().st_size > SIZE_LIMIT_BYTES:
            if file.kind == "json":
                self._add_rows(file)
                return None
            self._tell("BK010", file.path, f"not read: larger than {SIZE_LIMIT_BYTES:,} bytes, more than any config")
            return None
        try:
            return read_text_bounded(file.path, SIZE_LIMIT_BYTES)
        except InputError as fault:
            self._tell("BK010", file.path, fault.message)
            return None

    def _tell(
        self, code: str, path: Path, message: str, severity: Severity = Severity.ERROR, hint: str | None = None
    ) -> None:
        where = Location(path=str(path))
        self.findings.append(
            Finding(code=code, severity=severity, subject=path.name, message=message, where=where, hint=hint)
        )


def _strict_json(text: str, file: FoundFile) -> Iterator[Finding]:
    """Yield BK010 for a .json file that only a YAML reader accepts: `True`, a trailing comma, a comment."""
    if file.kind != "json":
        return
    try:
        parse_json(text)
    except (ValueError, RecursionError) as fault:
        line, column = getattr(fault, "lineno", None), getattr(fault, "colno", None)
        yield Finding(
            code="BK010",
            severity=Severity.ERROR,
            subject=file.path.name,
            message=f"not JSON: {fault}",
            where=Location(path=str(file.path), line=line, column=column),
            hint="write true and false in lower case, and no comma before a closing bracket",
        )


def _means_config(text: str) -> bool:
    """Return True if an unreadable text was probably a trainer's arguments: it has names that data never has."""
    return sum(f'"{name}"' in text for name in _ARGUMENTS) >= _ENOUGH_KEYS


def format_of(document: ForeignDocument, name: str) -> ConfigFormat | None:
    """Return the format that a file has. None if it has none."""
    return next(
        (config_format for config_format in config_formats() if config_format.claims(document.data, name)), None
    )


def is_task_target(path: Path) -> bool:
    """Return True if a path names a task file itself: `X.py`, `X.py@task` or `X.py:function`.

    A folder never does, regardless of its content: the code of a file runs only if that file was named.
    """
    place, _ = split_target(str(path))
    return place.suffix == ".py" and place.is_file()


def _configs_of(script: Script, place: Path) -> list[str]:
    """Return where the configs that a script names may be: beside it, in the folder above, or where it is called."""
    paths = [path for launch in script.launches for config in launch.configs for path in script.possible(config)]
    folders = (place.parent, *place.parent.parents[:1], Path())
    return [str(folder / path) for path in dict.fromkeys(paths) for folder in folders]


def _names_the_end(script: Script, config: Path) -> bool:
    return any(config.parts[-2:] == Path(each).parts[-2:] for launch in script.launches for each in launch.configs)


def _same(name: str, others: Sequence[str]) -> bool:
    return any(Path(name).resolve() == Path(other).resolve() for other in others)
