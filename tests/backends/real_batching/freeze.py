"""Write down what the real code of a trainer answers: python -m tests.backends.real_batching.freeze torchtune FILE

The environment variable of `cases.python_of` names the Python that has it. Long answers are kept as hashes.
"""

import json
import sys
from pathlib import Path

from tests.backends.real_batching.cases import ask, cases_for, digest, short


def main(peer: str, path: Path) -> None:
    asked = cases_for(peer)
    found = ask(peer, asked)
    answers = {
        case["name"]: {key: value if short(value) else digest(value) for key, value in answer.items()}
        for case, answer in zip(asked, found["answers"], strict=True)
    }
    document = {
        "what": f"answers of the real code of {peer} to the cases of tests/backends/real_batching/cases.py; lists are "
        "kept as the first 16 digits of the SHA-256 of their JSON",
        "made_by": f"python -m tests.backends.real_batching.freeze {peer} {path.as_posix()}",
        "versions": found["versions"],
        "answers": answers,
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
