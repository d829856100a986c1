"""Rules for job scripts: what is certain is an error, what a site may mean otherwise is not, and ours are silent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import parametrize
from tests.faults.case import base

from touchline.backends.registry import launch_commands
from touchline.core.finding import Finding, Location, Severity
from touchline.lint.rule import check_view
from touchline.lint.scripts import ScriptView
from touchline.slurm.script import read_script

pytestmark = pytest.mark.planning
ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO

HEADER = "#!/bin/bash\n#SBATCH --gres=gpu:1\n#SBATCH --mem=64G\n#SBATCH --time=04:00:00\n"


def look(text: str, *, path: str = "train.slurm") -> list[Finding]:
    return list(check_view(ScriptView(script=read_script(text, path, launch_commands())), Location(path=path), path))


def said(text: str) -> dict[str, Severity]:
    return {finding.code: finding.severity for finding in look(text)}


def job(*lines: str) -> dict[str, Severity]:
    """What is said of a job with these lines behind a sound header."""
    return said(HEADER + "\n".join(lines) + "\n")


def test_the_base_script_is_sound() -> None:
    assert look(base("sbatch")) == []


@given(st.text())
def test_no_text_breaks_a_rule(text: str) -> None:
    for finding in look(text, path="x.slurm"):
        assert finding.message


WORDS = [
    *("#SBATCH ", "--time=", "--mem=", "--output=", "--gres=gpu:4", "$X", "~/x", "5", "\n", "\\\n", " ", "|"),
    *("&", "&&", "||", ";;", "(", ")", "((", "))", "{", "}", "'", '"', "$(", "${", "`", "<<E", "\nE\n", "<<<"),
    *(">", "2>&1", "# x", "python train.py", "python -m ", "wait", "torchrun --nproc_per_node=8 "),
    *("accelerate launch ", "srun -n ", "sbatch a.slurm", "cd x", "cd ..", "mv a .", "sed -i s/a/b/ c.yaml"),
    *("x=", "for i in 1; do ", "done", "case x in ", "esac", "if a; then ", "else", "fi", "f() "),
    *("function g ", "exec ", "set -e", "\r\n"),
]


@given(st.lists(st.sampled_from(WORDS), max_size=40).map("".join))
def test_no_script_breaks_a_rule(text: str) -> None:
    script = "#!/bin/bash\n" + text
    for finding in look(script):
        assert finding.where is not None
        assert 1 <= (finding.where.line or 1) <= script.count("\n") + 1


def test_late_directives_are_one_finding_that_names_them() -> None:
    (finding,) = look("#!/bin/bash\nset -e\n#SBATCH --mem=8G\n#SBATCH --gres=gpu:2\necho\n")
    assert (finding.code, finding.severity) == ("SL003", Severity.ERROR)
    assert "--mem=8G, --gres=gpu:2" in finding.message
    assert finding.where == Location(path="train.slurm", line=3, column=1)


def test_a_late_directive_that_only_repeats_is_left_alone() -> None:
    assert job("echo", "#SBATCH --mem=64G") == {}


def test_a_misspelt_option_has_its_one_answer() -> None:
    (finding,) = [each for each in look(HEADER + "#SBATCH --ntask-per-node=1\n") if each.code == "SL005"]
    assert finding.hint == "did you mean --ntasks-per-node?"


def test_a_directive_s_variable_in_a_script_that_is_written_out_is_expanded() -> None:
    text = "#!/bin/bash\nN=4\nsbatch <<EOF\n#!/bin/bash\n#SBATCH --ntasks=$N\n#SBATCH --output=$HOME/x\nEOF\n"
    assert said(text) == {}


@parametrize(
    "lines, codes",
    # An unknown option is an error where it can only be a slip.
    (["#SBATCH --tiem=5"], {"SL005": ERROR}),
    (["#SBATCH --gpu=1"], {"SL005": ERROR}),
    (["#SBATCH --cpu-per-task=4"], {"SL005": ERROR}),
    (["#SBATCH -gres=gpu:1"], {"SL005": ERROR}),
    (["#SBATCH --gpus-task=1"], {"SL005": WARNING}),
    (["#SBATCH --lustre=x"], {"SL005": INFO}),
    # Options of plugins, short forms and newer options are known; a placeholder is left alone.
    (["#SBATCH --container-image=x.sqsh"], {}),
    (["#SBATCH --job=x"], {}),
    (["#SBATCH --tres-per-task=gres/gpu:1"], {}),
    *(([f"#SBATCH --account='{value}'"], {}) for value in ("<account>", "YOUR_ACCOUNT", "{{ account }}", "XXX")),
    # What sbatch refuses is an error.
    (["#SBATCH --time=1h30m"], {"SL006": ERROR}),
    (["#SBATCH --gres=gpu:2:a100"], {"SL006": ERROR}),
    (["#SBATCH -p=gpu"], {"SL006": ERROR}),
    (["#SBATCH --comment=a b"], {"SL007": ERROR}),
    (["#SBATCH --comment='a"], {"SL007": ERROR}),
    (["#SBATCH --partition"], {"SL007": ERROR}),
    (["#SBATCH --requeue=1"], {"SL007": ERROR}),
    (["#SBATCH --mem-per-cpu=1G"], {"SL012": ERROR}),
    # A variable in a directive.
    (["#SBATCH --output=$HOME/x.out"], {"SL008": ERROR}),
    (["#SBATCH --chdir=/scratch/$USER"], {"SL008": ERROR}),
    (["#SBATCH --ntasks=$N"], {"SL008": ERROR}),
    (["#SBATCH --output=log_${SLURM_JOB_ID}.out"], {"SL008": WARNING}),
    (["#SBATCH --job-name=$NAME"], {"SL008": WARNING}),
    # What is started, against what is asked for.
    (["torchrun --nproc_per_node=2 train.py"], {"SL016": ERROR}),
    (["N=2", "torchrun --nproc_per_node=$N train.py"], {"SL016": ERROR}),
    (["torchrun --nproc_per_node=$SLURM_GPUS_ON_NODE train.py"], {}),
    (["torchrun --nproc_per_node=gpu train.py"], {}),
    (["#SBATCH --gpus=8 --nodes=2", "torchrun --nproc_per_node=4 train.py"], {}),
    (["#SBATCH --exclusive", "torchrun --nproc_per_node=2 train.py"], {"SL016": WARNING}),
    (["export CUDA_VISIBLE_DEVICES=0,1", "torchrun --nproc_per_node=2 train.py"], {"SL016": WARNING}),
    (["#SBATCH --gres=gpu:4", "torchrun --nproc_per_node=2 train.py &", "vllm serve m &", "wait"], {}),
    (["#SBATCH hetjob", "#SBATCH --mem-per-cpu=1G", "torchrun --nproc_per_node=9 train.py"], {}),
    # How a job ends.
    (["python train.py 2>&1 | tee log"], {"SL030": WARNING}),
    (["python train.py 2>&1 | tee log", "echo done"], {"SL030": WARNING}),
    (["python train.py 2>&1 | tee log", "python evaluate.py"], {"SL030": INFO}),
    (["set -o pipefail", "python train.py 2>&1 | tee log"], {}),
    (["python train.py 2>&1 | tee log", "exit ${PIPESTATUS[0]}"], {}),
    (["python train.py > >(tee log) 2>&1"], {}),
    (["if python train.py | tee log; then echo fine; fi"], {"SL030": WARNING}),
    (["(python train.py --a; python train.py --b) | sed 's/^/x/' & p=$!", "wait $p"], {"SL030": WARNING}),
    (["nvidia-smi | tee gpus.txt", "python train.py"], {}),
    (["cat list.txt | python train.py"], {}),
    (["set -e", "python train.py", "mv slurm-$SLURM_JOB_ID.out ."], {"SL034": ERROR}),
    (["set -e", "python train.py", "mv slurm-$SLURM_JOB_ID.out . || true"], {}),
    (["set -e", "python train.py", "cp -r out/model ./out/"], {"SL034": ERROR}),
    (["set -e", "python train.py", "cp -r out /project/x"], {}),
    # What a job relies on.
    (["sed -i 's/a/b/' conf.yaml"], {"SL046": WARNING}),
    (["cp base.yaml run.yaml", "sed -i 's/a/b/' run.yaml"], {}),
    (["C=$(mktemp)", 'sed -i s/a/b/ "$C"'], {}),
    (["sed -i 's/a/b/' notes.txt"], {}),
    (["LAST=$(ls -td out/checkpoint-* | head -1)"], {"SL047": WARNING}),
    (["LAST=$(ls -d out/checkpoint-* | sort -V | tail -1)"], {}),
    (["ls -lt logs | head -1"], {}),
)
def test_what_is_said_of_a_job_with_these_lines(lines: list[str], codes: dict[str, Severity]) -> None:
    assert job(*lines) == codes
