"""Rules for the header of a job script as sbatch reads it: its first line, its directives, their names."""

from __future__ import annotations

import re
from collections.abc import Iterator

from touchline.core.finding import Edit, Severity
from touchline.lint.rule import Violation, rule
from touchline.lint.script_view import ScriptView, at_option, replaced, shown
from touchline.slurm.directives import Directive, DirectiveFault
from touchline.slurm.options import OPTIONS, PLACEHOLDER, SHORT, is_slip, near, of_plugin, resolve


@rule("SL003", Severity.ERROR)
def directive_after_command(view: ScriptView) -> Iterator[Violation]:
    """Report `#SBATCH` lines below the first command."""
    script = view.script
    late = [each for each in script.late if not _is_said_already(view, each)]
    if not late:
        return
    names = ", ".join(dict.fromkeys(shown(each) for each in late))
    first = script.first_command_line()
    yield Violation(
        message=f"sbatch reads nothing below the first command (line {first}), so it ignores {names}",
        at=script.where(late[0].line, 1),
        hint=f"move it above line {first}",
        subject=late[0].option or late[0].written,
    )


def _is_said_already(view: ScriptView, directive: Directive) -> bool:
    above = view.script.asked(directive.option) if directive.option else None
    return above is not None and above.value == directive.value


@rule("SL004", Severity.WARNING)
def misspelled_directive(view: ScriptView) -> Iterator[Violation]:
    """Report lines that look like `#SBATCH` and are not."""
    script = view.script
    for number, word in script.misspelt:
        line = script.lines[number - 1]
        said_there = line[len(word) :].strip()
        spaced = re.fullmatch(r"#\s+SBATCH:?", word.strip()) is not None or not script.is_job
        name = re.match(r"--?([\w-]+)", said_there)
        option = None if name is None else resolve(name[1]) or SHORT.get(name[1][:1])
        if spaced and option is not None and script.asked(option) is not None:
            continue  # another value for it, switched off
        # A blank after `#` is how many people switch an option off, so only a slip of the fingers is more than a note.
        yield Violation(
            message=f"`{word.strip()}` is a comment, so {said_there} is not read; expected `#SBATCH`",
            at=script.where(number, 1),
            hint="#SBATCH at the line's beginning; ##SBATCH where it is switched off on purpose",
            subject=name[1] if name else "#SBATCH",
            severity=Severity.INFO if spaced else None,
            edits=() if spaced else (Edit(path=script.path, line=number, old=line, new=f"#SBATCH{line[len(word) :]}"),),
        )
    for step in script.steps:
        command = step.command
        if command.name == "SBATCH" and len(command.words) > 1 and script.is_job:
            line = script.lines[command.line - 1]
            yield Violation(
                message="`SBATCH` without `#` is a command that does not exist, and the option is not read",
                at=script.where(command.line, command.column),
                hint=f"#{line.strip()}",
                subject=command.words[1].text,
                severity=Severity.ERROR,
                edits=(Edit(path=script.path, line=command.line, old=line, new=f"#{line.lstrip()}"),),
            )


@rule("SL005", Severity.ERROR)
def unknown_option(view: ScriptView) -> Iterator[Violation]:
    """Report options that sbatch does not have."""
    for each in view.script.directives:
        if each.fault not in (DirectiveFault.UNKNOWN, DirectiveFault.AMBIGUOUS):
            continue
        name = each.written.lstrip("-")
        if of_plugin(name) or PLACEHOLDER.search(each.written):
            continue
        is_short = not each.written.startswith("--")
        meant = near(name)
        if each.fault is DirectiveFault.AMBIGUOUS:
            several = ", ".join(f"--{option}" for option in OPTIONS if option.startswith(name))
            message, severity = f"`{each.written}` could be {several}; sbatch refuses it", None
        else:
            message = f"sbatch has no option `{each.written}`"
            slip = is_short or (meant is not None and is_slip(name, meant))
            severity = None if slip else Severity.INFO if meant is None else Severity.WARNING
        line = view.script.lines[each.line - 1]
        new = f"{line[: each.column - 1]}--{meant}{line[each.column - 1 + len(each.written) :]}"
        sure = meant is not None and not is_short and each.fault is DirectiveFault.UNKNOWN and severity is None
        yield Violation(
            message=message,
            at=at_option(view, each),
            hint=None if meant is None else f"did you mean --{meant}?",
            subject=each.written,
            severity=severity,
            edits=(Edit(path=view.script.path, line=each.line, old=line, new=new),) if sure else (),
        )


@rule("SL007", Severity.ERROR)
def unparsable_directive(view: ScriptView) -> Iterator[Violation]:
    """Report `#SBATCH` lines with stray words, open quotes or missing values."""
    for each in view.script.directives:
        name = each.option or each.written
        if PLACEHOLDER.search(each.written):
            continue
        match each.fault:
            case DirectiveFault.STRAY:
                line = view.script.lines[each.line - 1]
                is_dash = each.written[:1] in ("\u2013", "\u2014", "\u2212")
                hint = "--option=value without blanks around `=`; a value with blanks in quotes; a comment behind ` #`"
                if is_dash:
                    plain = re.sub("^[\u2013\u2014\u2212-]+", "--", each.written)
                    edits = replaced(view, each, each.written, plain)
                    yield Violation(
                        message=f"`{each.written}` begins with a typographic dash; expected `--`",
                        at=at_option(view, each),
                        hint=plain,
                        subject=name,
                        edits=edits,
                    )
                    continue
                rest = line[each.column - 1 :].strip()
                yield Violation(
                    message=f"`{each.written}` belongs to no option (in `{rest[:60]}`), and sbatch refuses the script",
                    at=at_option(view, each),
                    hint=hint,
                    subject=name,
                )
            case DirectiveFault.QUOTE:
                yield Violation(
                    message="a quote has no end, and sbatch refuses the script", at=at_option(view, each), subject=name
                )
            case DirectiveFault.COLON:
                yield Violation(
                    message="a word begins with `:`, which sbatch refuses",
                    at=at_option(view, each),
                    hint="#SBATCH --option=value",
                    subject="#SBATCH",
                )
            case DirectiveFault.NO_VALUE:
                yield Violation(message=f"{each.written} needs a value", at=at_option(view, each), subject=name)
            case DirectiveFault.NEEDS_NO_VALUE:
                yield Violation(
                    message=f"{each.written} takes no value, and `={each.value}` is one",
                    at=at_option(view, each),
                    hint=each.written,
                    subject=name,
                    edits=replaced(view, each, f"{each.written}={each.value}", each.written),
                )
            case _:
                pass
