"""experiment.yaml: every fault is told, all at once, where it stands; what is fine is read exactly as written."""

from collections.abc import Sequence

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cases import parametrize, refusal
from tests.tiers import examples

from touchline.core.errors import InputError, error_count
from touchline.core.finding import Finding, Severity
from touchline.experiment.document import ALIAS_LIMIT, DEPTH_LIMIT, SIZE_LIMIT_BYTES
from touchline.experiment.expand import expand
from touchline.experiment.foreign import Dialect, ForeignFileError, parse_foreign
from touchline.experiment.names import label_of
from touchline.experiment.read import read_experiment, read_settings

pytestmark = pytest.mark.planning

GOOD = """\
name: cap
task: capitalization
models: [SmolLM2-135M-Instruct]
data: {path: data/w.json}
train:
  learning_rate: 1e-3
  lora: {rank: 8}
factors:
  train.lora.rank: [4, 64]
controls: [base]
"""


def findings_of(text: str, *overrides: str) -> list[tuple[int | None, str, str]]:
    """(line, code, subject) of everything that is wrong with a text."""
    caught = refusal(read_experiment, text, "experiment.yaml", overrides)
    assert caught.exit_code == 2
    return [(f.where.line if f.where else None, f.code, f.subject) for f in caught.findings]


METHODS = (("lora", "none"), ("lora", "nf4"), ("full", "none"))


def names_of(text: str) -> list[str]:
    loaded = read_experiment(text, "experiment.yaml")
    models = [*loaded.experiment.models, *(str(pair["models"]) for pair in loaded.experiment.pairs if "models" in pair)]
    return [run.name for run in expand(loaded.experiment, {m: label_of(m) for m in models}, loaded.document)]


def test_a_good_file_is_read_as_written() -> None:
    """Numbers in YAML 1.2 notation are numbers, defaults fill what is not given."""
    experiment = read_experiment(GOOD, "experiment.yaml").experiment
    assert (experiment.train.learning_rate, experiment.train.lora.rank) == (0.001, 8)
    assert experiment.train.epochs == 1
    assert experiment.seeds == (1,)


def test_all_faults_of_a_file_are_told_in_one_go_with_their_lines() -> None:
    """Unknown keys, wrong types, bounds, and levels of factors: none hides another."""
    text = GOOD.replace("models:", "modles:").replace("rank: 8", "rank: 0, alhpa: 3").replace("[4, 64]", "[4, x, 0]")
    text = text.replace("1e-3", "-1")
    found = findings_of(text)
    assert (3, "EX002", "modles") in found
    assert (6, "EX003", "train.learning_rate") in found
    assert (7, "EX003", "train.lora.rank") in found
    assert (7, "EX002", "train.lora.alhpa") in found
    assert found.count((9, "EX003", "train.lora.rank")) == 2


def test_what_the_scheduler_is_told_is_one_line_and_a_duration() -> None:
    """A control character would be refused when scripts are written, long after the plan; a fault names its key."""
    text = f'{GOOD}\ncompute: {{account: "a\\nb", partition: "p\\tq", qos: fine, time_limit: banana, '
    text += 'evaluation: {partition: "e\\nf", gpus: 2, time_limit: plum}}\n'
    told = {each.subject: each.message for each in refusal(read_experiment, text, "experiment.yaml").findings}
    evaluation = {"compute.evaluation.partition", "compute.evaluation.time_limit"}
    assert set(told) == {"compute.account", "compute.partition", "compute.time_limit"} | evaluation
    assert all(message.startswith(f"{key}: ") for key, message in told.items())


def test_an_unknown_key_says_which_was_meant() -> None:
    """A near key is offered; a factor's key with its whole path."""
    caught = refusal(read_experiment, GOOD.replace("train.lora.rank", "train.lora.rnk"), "e.yaml")
    assert [finding.hint for finding in caught.findings] == ["did you mean 'train.lora.rank'?"]


@parametrize(
    "text, code",
    ("", "EX001"),
    ("- a\n- b\n", "EX001"),
    ("name: [", "EX001"),
    ("name: a\nname: b\n", "EX001"),
    ("name: !!python/object/apply:os.system ['true']\n", "EX003"),
    ("name: .nan\n", "EX003"),
    ("a: " * 3 + "1", "EX001"),
    ("[" * 200 + "]" * 200, "EX001"),
    ("a: &a [1]\nb: [" + "*a," * 10_001 + "]\n", "EX001"),
    ("x: '" + "y" * (1 << 20) + "'", "EX001"),
    ("name: \x00\n", "EX001"),
)
def test_hostile_yaml_is_a_finding(text: str, code: str) -> None:
    """Broken, deep, huge, tagged or self-multiplying text is refused in words."""
    assert code in {found[1] for found in findings_of(text)}


@parametrize(
    "value, message",
    (".nan", "expected a finite number, got nan"),
    ("-.inf", "expected a finite number, got -inf"),
    ("1e999", "expected a finite number, got inf"),
    ("99999999999999999999", "expected an integer of at most 64 bits, got a larger one"),
    ("!x 1", "expected a plain value, got one with a YAML tag"),
)
def test_a_value_that_no_key_takes_is_refused_with_place_and_expectation(value: str, message: str) -> None:
    """The error of such a value is as complete as that of a wrong value, in a file and on the command line."""
    (finding,) = refusal(read_experiment, GOOD.replace("1e-3", value), "e.yaml").findings
    assert (finding.where.path, finding.where.line, finding.where.column) == ("e.yaml", 6, 3)
    assert (finding.subject, finding.message) == ("train.learning_rate", f"train.learning_rate: {message}")
    caught = refusal(read_experiment, GOOD, "e.yaml", [f"train.learning_rate={value}"])
    assert [e.message for e in caught.findings] == [f"the value of train.learning_rate cannot be read: {message}"]


@given(st.text(max_size=200))
def test_no_text_makes_it_fail_in_another_way(text: str) -> None:
    """Whatever the text is, it is read or refused in words."""
    findings: Sequence[Finding] = ()
    try:
        name = read_experiment(text, "experiment.yaml").experiment.name
    except InputError as fault:
        name, findings = "", fault.findings
    assert name or findings


def test_overrides_change_the_file_and_are_checked_like_it() -> None:
    """`key=value` is YAML; unknown keys and wrong values are findings."""
    loaded = read_experiment(GOOD, "e.yaml", ["train.epochs=3", "seeds=[1, 2]"])
    assert (loaded.experiment.train.epochs, loaded.experiment.seeds) == (3, (1, 2))
    assert findings_of(GOOD, "train.epoch=3", "train.epochs=-1", "nonsense")[0][1] in {"EX002", "EX003"}
    assert len(findings_of(GOOD, "train.epoch=3", "nonsense")) == 2


def test_names_come_from_the_factors() -> None:
    """Size and rank always; the first seed has no part, so that adding a seed renames nothing."""
    assert names_of(GOOD) == ["135M_rank4", "135M_rank64", "135M_base"]
    assert names_of(GOOD + "seeds: [1, 2]\n") == [
        *("135M_rank4", "135M_rank4_seed2", "135M_rank64", "135M_rank64_seed2", "135M_base"),
    ]


def test_names_tell_runs_apart() -> None:
    """words_5L_80P_2000 and words_9L_80P_2000 differ in the length; each has a control of its own."""
    text = GOOD.replace("[4, 64]\n", "[4]\n  data.path: [d/words_5L_80P_2000.json, d/words_9L_80P_2000.json]\n")
    text = text.replace("SmolLM2-135M-Instruct", "Llama-3.2-1B-Instruct")
    assert names_of(text) == ["1B_rank4_words5L", "1B_rank4_words9L", "1B_base_words5L", "1B_base_words9L"]
    folders = text.replace("d/words_5L_80P_2000.json", "5L/train.json").replace("d/words_9L_80P_2000", "9L/train")
    assert names_of(folders) == ["1B_rank4_5L", "1B_rank4_9L", "1B_base_5L", "1B_base_9L"]
    pairs = "".join(f"\n  - {{train.method: {m}, train.quantization: {q}}}" for m, q in METHODS)
    ways = GOOD[: GOOD.index("factors:")] + f"controls: [base]\npairs:{pairs}\n"
    assert names_of(ways) == ["135M_rank8_lora", "135M_rank8_qlora", "135M_full", "135M_base"]
    # The family comes first; the whole name when that is the same too.
    two = GOOD.replace("[SmolLM2-135M-Instruct]", "[SmolLM2-135M-Instruct, Other-135M]").replace("[4, 64]", "[4]")
    assert names_of(two)[:2] == ["SmolLM2-135M_rank4", "Other-135M_rank4"]
    same = GOOD.replace("[SmolLM2-135M-Instruct]", "[SmolLM2-135M, SmolLM2-135M-Instruct]").replace("[4, 64]", "[4]")
    assert names_of(same)[:2] == ["SmolLM2-135M_rank4", "SmolLM2-135M-Instruct_rank4"]


def test_pairs_and_exclusions() -> None:
    """An entry of pairs is one level; a run that matches every key of an exclusion is not made."""
    text = GOOD.replace("models: [SmolLM2-135M-Instruct]\n", "") + (
        "pairs:\n  - {models: SmolLM2-135M-Instruct, train.learning_rate: 1e-3}\n"
        "  - {models: Llama-3.2-1B-Instruct, train.learning_rate: 2e-4}\n"
        "exclude: [{train.lora.rank: 64, train.learning_rate: 1e-3}]\n"
    )
    assert names_of(text) == ["135M_rank4", "1B_rank4", "1B_rank64", "135M_base", "1B_base"]
    # Nothing left to run, a pattern that does not tell runs apart, an unknown part of a pattern.
    for extra in ("exclude: [{train.epochs: 1}]\n", "run_names: same\n", 'run_names: "{model_siz}_rank{lora_rank}"\n'):
        with pytest.raises(InputError):
            names_of(GOOD + extra)
    assert names_of(GOOD + 'run_names: "r{lora_rank}"\n') == ["r4", "r64", "135M_base"]


TEXTS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=30)
"""Any text but one that no file's name and no command's argument can hold, which is a fault."""


@settings(max_examples=examples(25), deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=6, unique=True))
def test_run_names_are_safe_and_unique_whatever_the_levels_say(levels: list[str]) -> None:
    """A level's text never makes a path, a hidden file or two names that a file system takes for one."""
    import json

    text = GOOD.replace("  train.lora.rank: [4, 64]\n", f"  data.prompt: {json.dumps(levels)}\n")
    names = names_of(text)
    assert len({name.casefold() for name in names}) == len(names)
    assert all(not name.startswith((".", "-")) and "/" not in name and len(name) <= 80 for name in names)


def test_an_edited_run_is_read_back_key_by_key() -> None:
    """setup_finetune.yaml gives dotted settings; a key that a run does not have is a finding."""
    _, settings = read_settings("train: {lora: {rank: 8}, checkpoint: {every: {steps: 5}}}\nseed: 2\n", "s.yaml")
    assert settings == {"train.lora.rank": 8, "train.checkpoint.every": {"steps": 5}, "seed": 2}
    with pytest.raises(InputError):
        read_settings("train: {lora: {rnk: 8}}\n", "s.yaml")


def test_alpha_follows_the_rank_unless_it_is_given() -> None:
    """2 x rank for each level of the rank."""
    loaded = read_experiment(GOOD, "e.yaml")
    runs = expand(loaded.experiment, {m: label_of(m) for m in loaded.experiment.models}, loaded.document)
    assert [run.train.lora.alpha for run in runs[:2]] == [8.0, 128.0]
    given_alpha = read_experiment(GOOD.replace("rank: 8", "rank: 8, alpha: 16"), "e.yaml")
    runs = expand(given_alpha.experiment, {m: label_of(m) for m in given_alpha.experiment.models}, given_alpha.document)
    assert [run.train.lora.alpha for run in runs[:2]] == [16.0, 16.0]


@parametrize(
    "name, size, family",
    ("Qwen2.5-0.5B", "0.5B", "Qwen2.5"),
    ("Qwen2.5-1.5B-Instruct", "1.5B", "Qwen2.5"),
    ("Mixtral-8x7B-v0.1", "8x7B", "Mixtral"),
    ("Llama-3.1-70B", "70B", "Llama-3.1"),
    ("Llama-2-70b-hf", "70B", "Llama-2"),
    ("SmolLM2-135M-Instruct", "135M", "SmolLM2"),
    ("Llama-3.2-1B", "1B", "Llama-3.2"),
    ("llama-4bit-7b", "7B", "llama-4bit"),
    ("Qwen3-30B-A3B", "30B", "Qwen3"),
    ("phi-3-mini-4k", "phi-3-mini-4k", "phi-3-mini-4k"),
    ("x-4bit-7b", "7B", "x-4bit"),
)
def test_sizes_are_read_from_names_only_where_they_are_sizes(name: str, size: str, family: str) -> None:
    """0.5B is not 5B, 8x7B is not 7B, 4bit is no size."""
    label = label_of(f"/models/{name}")
    assert (label.size, label.family) == (size, family)


def test_a_tab_is_named_as_what_is_wrong() -> None:
    """However it stands in the indentation; a tab inside a value is no fault."""
    for text in (
        "name: x\ndata:\n\tpath: a.json\n",
        "name: x\ndata:\n  path: a\n \tprompt: b\n",
        "train:\n\t\n\tepochs: 1\n",
        "data:\n  path:\t[a.json]\n",
    ):
        caught = refusal(read_experiment, text, "experiment.yaml")
        assert "spaces" in (caught.findings[0].hint or ""), text
    assert refusal(read_experiment, "name: [x\ny: 'a\tb'\n", "experiment.yaml").findings[0].hint is None


def test_a_value_from_the_command_line_is_not_looked_for_in_the_file() -> None:
    """Also where the file has another value for the key, or a longer path into it is wrong."""
    text = "name: a\nmodels: [m]\ndata: {path: d.json}\ntrain: {learning_rate: 1e-3, epochs: 1}\n"
    for override in (
        *(
            *("train.learning_rate=abc", "models=3", "train.epochs=10001", "models=[m, m]", "seeds=[1, x]"),
            "train={epochs: x}",
        ),
        *("factors.train.lora.rank=x", "compute.deadline=soon", "evaluate.samples={}"),
    ):
        caught = refusal(read_experiment, text, "experiment.yaml", [override])
        places = {finding.where.path for finding in caught.findings if finding.where is not None}
        assert places == {f"command line: {override}"}, (override, caught.findings)
    caught = refusal(read_experiment, text.replace("1e-3", "abc"), "experiment.yaml", ["train.epochs=2"])
    assert [finding.where and finding.where.line for finding in caught.findings] == [4]


@parametrize(
    "text, severity",
    ("path: {{model_dir}}/vocab.json\n", Severity.INFO),
    ("{% if packed %}\npacked: true\n{% endif %}\n", Severity.INFO),
    ("report_to:wandb\nstage: sft\n", Severity.ERROR),
    ("chat_template: '{{ messages }}'\nreport_to:wandb\nstage: sft\n", Severity.ERROR),
)
def test_a_template_is_not_taken_for_broken_yaml(text: str, severity: Severity) -> None:
    with pytest.raises(ForeignFileError) as caught:
        parse_foreign(text, "f.yaml", "omegaconf")
    assert (caught.value.finding.code, caught.value.finding.severity) == ("BK010", severity)


def value(text: str, dialect: Dialect) -> object:
    return parse_foreign(f"a: {text}\n", "f.yaml", dialect).data["a"]


def test_scalars_are_what_each_loader_makes_of_them(subtests: pytest.Subtests) -> None:
    for text, pyyaml, omegaconf in [
        ("5e-5", "5e-5", 5e-5),
        ("1.0e5", "1.0e5", 1e5),
        ("no", False, False),
        ("017", 15, 15),
        ("null", None, None),
        ("12:30:45", 45045, 45045),
        (".inf", float("inf"), float("inf")),
        ("'${x}'", "${x}", "${x}"),
    ]:
        with subtests.test(text=text, pyyaml=pyyaml):
            assert value(text, "pyyaml") == pyyaml
            assert value(text, "omegaconf") == omegaconf


def test_every_value_knows_its_place() -> None:
    text = "a: 1\nb:\n  c: [x, {d: 2}]\n"
    document = parse_foreign(text, "f.yaml", "pyyaml")
    place = document.where("b", "c", 1, "d")
    assert (place.path, place.line, place.column) == ("f.yaml", 3, 11)
    missing = document.where("b", "gone", "deeper")
    assert (missing.line, missing.column) == (2, 1)
    assert document.where("gone").line is None
    stated = document.stated("b", "c", 1, "d")
    assert (stated.value, stated.key) == (2, "b.c.1.d")
    assert document.get("b", "c", 5) is None
    assert document.stated("a", "x") is None


def test_merges_anchors_and_keys_given_twice() -> None:
    text = "base: &b {lr: 1.0, epochs: 2}\nrun:\n  <<: *b\n  epochs: 3\nmany:\n  <<: [*b, {seed: 1, lr: 9.0}]\n"
    document = parse_foreign(text, "f.yaml", "pyyaml")
    assert document.data == yaml.safe_load(text)
    assert document.get("run", "epochs") == 3
    assert document.doubled == ()
    document = parse_foreign("a: {x: 1, x: 2}\nb: 1\nb: 2\n", "f.yaml", "pyyaml")
    assert [(each.key, each.first.line, each.again.line) for each in document.doubled] == [("a.x", 1, 1), ("b", 2, 3)]
    assert document.data == {"a": {"x": 2}, "b": 2}


@parametrize(
    "text",
    "",
    "- a\n- b\n",
    "a: [1\n",
    "a: !!python/object/apply:os.system [ls]\n",
    "? [1, 2]\n: x\n",
    "a: 1\n---\nb: 2\n",
    "a: \x00\n",
    "<<: 3\n",
    "a: " + "[" * (DEPTH_LIMIT + 1) + "]" * (DEPTH_LIMIT + 1) + "\n",
    "a: &x 1\nb: [" + "*x, " * (ALIAS_LIMIT + 1) + "]\n",
    "a: " + "x" * SIZE_LIMIT_BYTES,
    ids=lambda text: text[:24],
)
@pytest.mark.parametrize("dialect", ["pyyaml", "omegaconf"])
def test_what_is_no_config_is_one_finding(text: str, dialect: Dialect) -> None:
    with pytest.raises(ForeignFileError) as caught:
        parse_foreign(text, "f.yaml", dialect)
    finding = caught.value.finding
    assert (finding.code, finding.severity.value) == ("BK010", "error")
    assert finding.where.path == "f.yaml"


def test_aliases_that_unfold_without_end_are_refused() -> None:
    """Nine levels of ten aliases each would be a thousand million values."""
    lines = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    with pytest.raises(ForeignFileError) as caught:
        parse_foreign("\n".join(lines) + "\n", "f.yaml", "pyyaml")
    assert "aliases" in caught.value.finding.message


_PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**9), 10**9), st.floats(allow_nan=False), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(min_size=1, max_size=5), inner)),
    max_leaves=10,
)


@settings(max_examples=examples(25), deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=6), _PLAIN, min_size=1, max_size=4))
def test_what_pyyaml_writes_is_read_as_pyyaml_reads_it(data: dict[str, object]) -> None:
    text = yaml.safe_dump(data, allow_unicode=True)
    assert parse_foreign(text, "f.yaml", "pyyaml").data == yaml.safe_load(text)


@settings(max_examples=examples(25), deadline=None)
@given(st.text(alphabet="ab:-[]{}&*!#|>'\"\n 0.e", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    for dialect in ("pyyaml", "omegaconf"):
        code = "read"
        try:
            parse_foreign(text, "f.yaml", dialect)
        except ForeignFileError as refused:
            code = refused.finding.code
        assert code in ("read", "BK010")


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("seeds=3", "seeds: [1, 2, 3], or seeds: [3]"),
        ("controls=base", "controls: [base]"),
        ("run_names=x_{model_size}", "run_names: 'x_{model_size}_{lora_rank}'"),
    ],
)
def test_a_hint_can_be_typed_and_an_override_at_fault_is_named(override: str, hint: str) -> None:
    def read() -> None:
        loaded = read_experiment(GOOD, "experiment.yaml", [override])
        expand(loaded.experiment, {m: label_of(m) for m in loaded.experiment.models}, loaded.document)

    caught = refusal(read)
    assert [finding.hint for finding in caught.findings] == [hint]
    assert error_count("experiment.yaml", caught.findings) == f"command line: {override}: 1 error"
