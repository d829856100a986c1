"""Other tools' YAML by the rules of their loaders: values, places, and what is refused before anything is built."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cases import parametrize
from tests.tiers import examples

from touchline.core.finding import Severity
from touchline.experiment.document import ALIAS_LIMIT, DEPTH_LIMIT, SIZE_LIMIT_BYTES
from touchline.experiment.foreign import Dialect, ForeignFileError, parse_foreign

pytestmark = pytest.mark.planning


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
