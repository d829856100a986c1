"""Questions of the interview, in one table; each has a flag, a text, a default and a reader.

An answer is text, typed at the question or given as a flag; one function reads both. The table is loaded with the
command line, so nothing heavy is imported before a question is asked.
"""

from __future__ import annotations

from touchline.core.errors import InputError
from touchline.run.interview.answers import Question
from touchline.run.interview.subject import SUBJECT_QUESTIONS
from touchline.run.interview.training import TRAINING_QUESTIONS

QUESTIONS = (*SUBJECT_QUESTIONS, *TRAINING_QUESTIONS)
"""Questions in the order of the interview."""


def question_named(name: str) -> Question:
    """Return a question.

    Raises:
        InputError: there is none.
    """
    found = next((question for question in QUESTIONS if question.name == name), None)
    if found is None:
        names = ", ".join(question.name for question in QUESTIONS)
        raise InputError(f"there is no question {name!r}", expected=f"one of {names}")
    return found
