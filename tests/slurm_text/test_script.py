"""A job script is read as sbatch and a shell would: what it asks for, what it runs, and where each stands."""

import re
import shlex
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import parametrize

import touchline.run.scripts
from touchline.backends.registry import launch_commands
from touchline.slurm.job_view import output_pattern
from touchline.slurm.options import OPTIONS, DirectiveFault, OptionArity, near, refused, resolve
from touchline.slurm.resources import requested
from touchline.slurm.script import Script, is_job_script, read_script
from touchline.slurm.shell import ShellWord

pytestmark = pytest.mark.planning


def read(*lines: str) -> Script:
    return read_script("\n".join(("#!/bin/bash", *lines)) + "\n", "train.slurm", launch_commands())


def options(*lines: str) -> list[tuple[str | None, str | None]]:
    return [(each.option, each.value) for each in read(*lines).directives]


# What sbatch 22.05 said of each of these with --test-only is written beside it where it refused.
def test_a_directive_gives_options_and_values(subtests: pytest.Subtests) -> None:
    for line, expected in [
        ("#SBATCH --time=5", [("time", "5")]),
        ("#SBATCH --time 5", [("time", "5")]),
        ("#SBATCH -t5", [("time", "5")]),
        ("#SBATCH -t 5", [("time", "5")]),
        ("#SBATCH -t=5", [("time", "=5")]),
        ("#SBATCH --job=x", [("job-name", "x")]),
        ("#SBATCH --tasks-per-node=2", [("ntasks-per-node", "2")]),
        ("#SBATCH -N 1 -n 2", [("nodes", "1"), ("ntasks", "2")]),
        ("#SBATCH -p gpu --gres=gpu:1 # both", [("partition", "gpu"), ("gres", "gpu:1")]),
        ("#SBATCH --time=5#comment", [("time", "5")]),
        ("#SBATCH --job-name='a b'", [("job-name", "a b")]),
        ('#SBATCH --output="checkpoints/%x/s%J/stdout"', [("output", "checkpoints/%x/s%J/stdout")]),
        ("#SBATCH --exclusive", [("exclusive", None)]),
        ("#SBATCH --exclusive=user", [("exclusive", "user")]),
        ("#SBATCH\t--requeue", [("requeue", None)]),
        ("#SBATCH -Hv", [("hold", None), ("verbose", None)]),
        ("#SBATCH hetjob", []),
        ("#SBATCH", []),
        ("##SBATCH --time=5", []),
        (" #SBATCH --time=5", []),
        ("# SBATCH --time=5", []),
    ]:
        with subtests.test(line=line, expected=expected):
            assert options(line) == expected
            assert all(each.fault is None for each in read(line).directives)


def test_what_sbatch_refuses_is_a_fault(subtests: pytest.Subtests) -> None:
    for line, fault in [
        ("#SBATCH --tiem=5", DirectiveFault.UNKNOWN),  # unrecognized option
        ("#SBATCH -gres=gpu:1", DirectiveFault.UNKNOWN),  # invalid option -- 'g'
        ("#SBATCH --gpu=1", DirectiveFault.UNKNOWN),  # is ambiguous
        ("#SBATCH --partition", DirectiveFault.NO_VALUE),  # requires an argument
        ("#SBATCH -p", DirectiveFault.NO_VALUE),
        ("#SBATCH --requeue=1", DirectiveFault.NEEDS_NO_VALUE),  # doesn't allow an argument
        ("#SBATCH --comment=a b", DirectiveFault.STRAY),  # Invalid directive found in batch script: b
        ("#SBATCH --account= foo", DirectiveFault.STRAY),
        ("#SBATCH --exclusive user", DirectiveFault.STRAY),
        ("#SBATCHX --time=5", DirectiveFault.STRAY),
        ("#SBATCH --job-name='x", DirectiveFault.QUOTE),  # Unmatched `'`
        ("#SBATCH: --time=5", DirectiveFault.STRAY),  # Unexpected `:`
        ("#SBATCH --time=1 :00", DirectiveFault.STRAY),
    ]:
        with subtests.test(line=line, fault=fault):
            assert fault in [each.fault for each in read(line).directives]


@parametrize(
    "written, value",
    (r"'a\0b'", "a0b"),
    (r'"a\"b"', 'a"b'),
    ("'a'b\"c\"", "abc"),
    ('"a#b"', "a#b"),
    ("a#b", "a"),
    ("$'x'", "$x"),
)
def test_quotes_are_those_of_sbatch_not_of_a_shell(written: str, value: str) -> None:
    assert read(f"#SBATCH --comment={written}").value("comment") == value


def test_places_of_directives() -> None:
    (first, second) = read("#SBATCH  --time 5  -n4").directives
    assert (first.line, first.column) == (2, 10)
    assert (second.line, second.column) == (2, 20)
    script = read("#SBATCH --time=5", "#SBATCH -t 7")
    assert script.value("time") == "7"
    assert script.value("mem") is None
    script = read("#SBATCH --mem=1G", "", "  # still the header", "#SBATCH --time=5", "set -e", "#SBATCH --gres=gpu:1")
    assert [each.option for each in script.directives] == ["mem", "time"]
    assert [each.option for each in script.late] == ["gres"]
    assert script.first_command_line() == 6


@parametrize(
    "lines",
    ["cat > job.sh <<EOF", "#SBATCH --gres=gpu:1", "EOF"],
    ["sbatch <<-'END'", "#SBATCH --gres=gpu:1", "\tEND"],
    ["id=$(sbatch <<EOF", "#SBATCH --gres=gpu:1", "EOF", ")"],
    ['echo "#!/bin/bash', "#SBATCH --gres=gpu:1", '" > job.sh'],
    [": '", "#SBATCH --gres=gpu:1", "'"],
)
def test_a_script_within_a_script_has_directives_of_its_own(lines: list[str]) -> None:
    assert read(*lines, "echo done").late == ()


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\\\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")))
def test_a_value_survives_quoting(value: str) -> None:
    # A backslash is left out: sbatch, unlike a shell, takes it for an escape in single quotes too.
    script = read(f"#SBATCH --comment={shlex.quote(value)}", "#SBATCH --time=5")
    assert [(each.option, each.fault) for each in script.directives] == [("comment", None), ("time", None)]
    assert (script.value("comment") or "") == value


@given(st.sampled_from(sorted(OPTIONS)), st.integers(0, 99_999))
def test_every_option_is_found_by_its_own_name(option: str, value: int) -> None:
    kind = OPTIONS[option]
    written = f"--{option}" if kind is OptionArity.FLAG else f"--{option}={value}"
    (found,) = read(f"#SBATCH {written}").directives
    assert found.fault is None
    assert found.option == resolve(option)


@given(st.text())
def test_any_text_can_be_read(text: str) -> None:
    script = read_script(text, "x.slurm", launch_commands())
    assert "\n".join(script.lines) == text
    assert isinstance(script.launches, tuple)
    assert isinstance(is_job_script(text, "x.sh"), bool)
    requested(script.effective)


@pytest.mark.parametrize("text", ["(" * 5000, "x=" + '"$(' * 5000, "${" * 20_000, "if true; then " * 3000, "'" * 999])
def test_text_that_no_shell_would_run_is_read_at_once(text: str) -> None:
    begun = time.monotonic()
    assert read(text).launches == ()
    assert time.monotonic() - begun < 3


def test_pipes_joints_and_groups_are_told_apart() -> None:
    script = read(
        "a && b || c", "(d | e) &", "if f; then g; fi", "for i in 1 2; do h & done", "! k | l", "m() {", "n &", "}"
    )
    assert [(each.name, each.after, each.kinds) for each in script.steps] == [
        ("a", "&&", ()),
        ("b", "||", ()),
        ("c", "", ()),
        ("d", "|", ("(",)),
        ("e", "", ("(",)),
        ("f", "", ("if",)),
        ("g", "", ("if",)),
        ("for", "", ("for",)),
        ("h", "&", ("for",)),
        ("k", "|", ()),
        ("l", "", ()),
        ("n", "&", ("function",)),
    ]


def test_words_have_no_quotes_and_groups_have_what_follows_them() -> None:
    script = read("(", "  A=1 x --a \\", "    'q r' > log", ") 2>&1 | sed 's/a/b/' & p=$!")
    (first, sed, last) = script.steps
    assert [word.text for word in first.words] == ["x", "--a", "q r"]
    assert [word.raw for word in (*first.assignments, *first.outputs)] == ["A=1", "log"]
    assert [each.after for each in first.around] == ["", "|"]
    assert (first.line, sed.line, last.name) == (3, 5, "")


@parametrize(
    "line, launcher, program, nproc",
    ("python train.py --lr 1", "python", "train.py", None),
    ("srun -n1 --gpus-per-task 1 python3 -u sft.py", "python", "sft.py", None),
    ("CUDA_VISIBLE_DEVICES=0 /opt/env/bin/python3.11 -m pkg.train", "python", "pkg.train", None),
    ("torchrun --standalone --nproc_per_node=4 train.py", "torchrun", "train.py", "4"),
    ("torchrun --nproc-per-node 4 -m pkg.train --x", "torchrun", "pkg.train", "4"),
    ("python -m torch.distributed.launch --nproc_per_node 2 train.py", "torchrun", "train.py", "2"),
    ("srun accelerate launch --multi_gpu --num_processes 8 train.py", "accelerate", "train.py", "8"),
    ("deepspeed --num_gpus=2 train.py --deepspeed ds.json", "deepspeed", "train.py", "2"),
    ("tune run --nproc_per_node 2 lora_finetune_distributed --config x.yaml", "tune", "lora_finetune_distributed", "2"),
    ("uv run python finetune.py", "python", "finetune.py", None),
    ("apptainer exec --nv img.sif python dpo.py", "python", "dpo.py", None),
    ("conda run -n llm python train.py", "python", "train.py", None),
    ("llamafactory-cli train conf.yaml", "llamafactory-cli", "train", None),
)
def test_what_is_launched_is_known(line: str, launcher: str, program: str, nproc: str | None) -> None:
    (launch,) = read(line).launches
    assert (launch.launcher, launch.program.text) == (launcher, program)
    assert (None if launch.nproc is None else launch.nproc.text) == nproc
    assert launch.is_training


@parametrize(
    "line",
    "echo python train.py",
    "which python",
    "pip install torchrun",
    "conda activate python",
    "module load python",
    "tune ls",
)
def test_what_only_names_python_starts_nothing(line: str) -> None:
    assert read(line).launches == ()


@parametrize(
    "line, paths",
    ("python train.py --config conf/a.yaml", ["conf/a.yaml"]),
    ("tune run lora_finetune_single_device --config llama3/8B_lora", []),
    ("axolotl train qlora.yml", ["qlora.yml"]),
    ("accelerate launch --config_file zero3.yaml train.py --config $CFG", ["zero3.yaml", "$CFG"]),
    ("llamafactory-cli train a.yaml", ["a.yaml"]),
)
def test_config_files_that_are_named_are_known(line: str, paths: list[str]) -> None:
    assert [each for launch in read(line).launches for each in launch.configs] == paths


def test_a_word_stands_for_every_value_that_the_script_gives_its_variable() -> None:
    script = read(
        "CONFIGS=(configs/a.yaml 'configs/b.yaml')",
        'CONFIG="${CONFIGS[$SLURM_ARRAY_TASK_ID]}"',
        "DIR=configs",
        "for name in x.yaml y.yaml; do axolotl train $name; done",
        'OTHER="$UNKNOWN/z.yaml"',
    )
    told = {
        "plain.yaml": ("plain.yaml",),
        "${CONFIG}": ("configs/a.yaml", "configs/b.yaml"),
        "$DIR/c.yaml": ("configs/c.yaml",),
        "$name": ("x.yaml", "y.yaml"),
        "$OTHER": (),
        "$DIR/$name": (),
        "$1": ("$1",),
    }
    assert {word: script.possible(word) for word in told} == told


def test_a_variable_that_is_set_once_is_known() -> None:
    script = read("N=4", "export M=2", "K=1", "K=2", "for J in 1 2; do echo; done", "torchrun --nproc_per_node=$N t.py")
    words = {name: script.resolved(ShellWord(f"${name}", 1)) for name in "NMKJ"}
    assert words == {"N": "4", "M": "2", "K": None, "J": None}
    assert script.resolved(script.launches[0].nproc) == "4"


@parametrize(
    "lines, gpus, cpus, tasks",
    (["#SBATCH --gres=gpu:a100:4", "#SBATCH --cpus-per-task=32"], 4, 32, 1),
    (["#SBATCH --gres=gpu", "#SBATCH -n 4"], 1, 4, 4),
    (["#SBATCH --gpus=8", "#SBATCH -N 2", "#SBATCH --ntasks-per-node=4", "#SBATCH -c 2"], 4, 8, 4),
    (["#SBATCH -G H100:4"], 4, None, 1),
    (["#SBATCH --gpus-per-node=h100:4", "#SBATCH --cpus-per-gpu=8"], 4, 32, 1),
    (["#SBATCH --gpus-per-task=1", "#SBATCH --ntasks-per-node=4"], 4, 4, 4),
    (["#SBATCH --gres=shard:2"], None, None, 1),
    (["#SBATCH --nodes=2-4", "#SBATCH --gpus=8"], None, None, None),
)
def test_requests_per_node_are_known(lines: list[str], gpus: int | None, cpus: int | None, tasks: int | None) -> None:
    asked = requested(read(*lines).effective)
    assert (asked.gpus_per_node, asked.cpus_per_node, asked.tasks_per_node) == (gpus, cpus, tasks)


# Each of these was given to sbatch 22.05.
TAKEN = {
    "time": ("90", "90:00", "0", "UNLIMITED", "infinite", "-1", "1-0", "1-", "100:00:00", "00:70:00"),
    "mem": ("4G", "4g", "4GB", "64000", "0", "16mb", "16KB", "1T"),
    "nodes": ("1", "01", "1-2", "0"),
    "array": ("1-10", "1,2,5-7", "1-10:2%2", "0-9%", "[1-3]", "5"),
    "mail-type": ("all", "END,FAIL", "TIME_LIMIT_80", "none"),
    "gres": ("gpu:1", "gpu", "gpu:a100", "gpu:a100:2", "gpu:1g.10gb:1", "gpu:v100:1,gpu:a100:1", "none"),
    "ntasks": ("1", "04"),
}
REFUSED = {
    "time": ("1h30m", "24h", "60m", "", "1.5", "abc", "1:2:3:4", "5s", "1d", "=5"),
    "mem": ("4Gi", "1.5G", "abc", "16G,", "16B", "UNLIMITED"),
    "nodes": ("a",),
    "array": ("a", "0..9", "1:3"),
    "mail-type": ("FOO", "ABORT", "DONE", "BEGIN,"),
    "gres": ("gpu:2:a100", "1", "gpu:1,", "gpu:1;"),
    "ntasks": ("0", "x", "-1", "1k"),
    "cpus-per-task": ("0", "4.5", "4,"),
}


def test_values_that_sbatch_takes_and_refuses_are_told_apart() -> None:
    taken = [(option, value) for option, values in TAKEN.items() for value in values]
    assert [each for each in taken if refused(*each) is not None] == []
    wrong = [(option, value) for option, values in REFUSED.items() for value in values]
    assert [each for each in wrong if refused(*each) is None] == []


@parametrize(
    "name, meant",
    ("tiem", "time"),
    ("job_name", "job-name"),
    ("gpu-per-node", "gpus-per-node"),
    ("ntask-per-node", "ntasks-per-node"),
    ("cpu-per-task", "cpus-per-task"),
    ("workdir", "chdir"),
    ("zzz", None),
)
def test_the_option_that_was_meant_is_found(name: str, meant: str | None) -> None:
    assert near(name) == meant


@parametrize(
    "name, text, expected",
    ("train.slurm", "#!/bin/bash\npython train.py\n", True),
    ("train.sh", "#!/bin/bash\n#SBATCH --time=5\n", True),
    ("run.sbatch", "hostname\n#SBATCH --time=5\n", True),
    ("submit_all.sh", "#!/bin/bash\ncd a && sbatch b && cd ..\n", True),
    ("setup.sh", "#!/bin/bash\npip install x\n", False),
    ("job.sh", "#!/bin/bash\n#PBS -l nodes=1\nqsub x\n", False),
    ("job.slurm", "#!/bin/bash\n#BSUB -q gpu\n", False),
    ("job.sh", "#$ -l rt_G.small=1\npython train.py\n", False),
    ("launch.py", "text = '''\n#SBATCH --time=5\n'''\n", False),
    ("README.md", "```\n#SBATCH --time=5\n```\n", False),
    ("job", "#!/bin/bash\n#SBATCH --time=5\n", True),
    ("job", "\n#!/bin/bash\n#SBATCH --time=5\n", True),
)
def test_scripts_of_slurm_are_told_from_other_files(name: str, text: str, expected: bool) -> None:
    assert is_job_script(text, name) is expected


def test_a_script_in_another_language_has_directives_and_no_commands() -> None:
    script = read_script(
        "#!/usr/bin/env python3\n#SBATCH --time=5\nimport os; os.system('sbatch x')\n", "job.slurm", launch_commands()
    )
    assert script.value("time") == "5"
    assert script.steps == ()
    assert script.launches == ()


TEMPLATE = Path(touchline.run.scripts.__file__).parent / "templates" / "pattern.sh.j2"
PLAIN = ("/a/b", '/it\'s "so"', "/a\nb", "/$HOME/`ls`", "/ü", "/-x", "/a b/[c]*?")
REPLACED = ("/50%", "/%j", "/a%%b", "/%%j/%A/%x", "/%5j", "/%", "/%\n%j")
ESCAPED = ("/a\\b", "/a\\\\b", "/%j\\%%", "/\\", "/a'\\\"%j")


def as_slurm_reads(pattern: str, job: str) -> str:
    r"""The file that slurmstepd opens: nothing is replaced where there is a backslash."""
    if "\\" in pattern:
        return re.sub(r"\\(.)", r"\1", pattern, flags=re.DOTALL)
    return re.sub("%([%jAx])", lambda match: "%" if match[1] == "%" else job, pattern)


def test_a_job_writes_into_its_own_folder_whatever_that_is_called() -> None:
    for folder in (*PLAIN, *REPLACED, *ESCAPED):
        pattern = output_pattern(folder, "slurm-%j.out")
        expected = "slurm-%j.out" if "\\" in folder else "slurm-7.out"
        assert as_slurm_reads(pattern or f"{folder}/slurm-%j.out", "7") == f"{folder}/{expected}", folder
        assert (pattern is None) == (folder in PLAIN)


def test_the_scripts_for_the_shell_say_the_same() -> None:
    text = TEMPLATE.read_text(encoding="utf-8")
    script = text + '\nfor folder; do output_of "$folder" "slurm-%j.out"; printf "\\0"; done'
    folders = (*PLAIN, *REPLACED, *ESCAPED)
    done = subprocess.run(["bash", "-c", script, "bash", *folders], capture_output=True, text=True, check=True)
    said = done.stdout.split("\0")[:-1]
    expected = [output_pattern(folder, "slurm-%j.out") for folder in folders]
    assert said == ["" if pattern is None else f"--output={pattern}" for pattern in expected]
