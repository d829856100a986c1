"""Writer of the tutorial's data, made-up messages to a shop with the team that each belongs to.

python tools/tickets.py    write examples/tickets/tickets.csv again
"""

from __future__ import annotations

import csv
import random
from pathlib import Path

OPENINGS = (
    *(
        "Hello,",
        "Hi there,",
        "Good morning,",
        "Dear team,",
        "Hey,",
        "Please help:",
        "Second message:",
        "Sorry to bother,",
    ),
)
ENDINGS = (
    *("Can you look into it?", "Thanks.", "I need this by Friday.", "What should I do?", "Please call me back."),
    *("This is urgent.", "No hurry.", "I have been a customer for years."),
)
THINGS = ("lamp", "kettle", "backpack", "headphones", "jacket", "keyboard", "blender", "tent")
PROBLEMS = {
    "billing": (
        "my card was charged twice for the {}",
        "the invoice for the {} has the wrong address",
        "the discount code was not applied to the {}",
        "I paid for the {} but the order says unpaid",
        "the receipt for the {} never came",
        "the price of the {} on the invoice is not the one in the shop",
    ),
    "delivery": (
        "the {} has not arrived yet",
        "the parcel with the {} went to a neighbour I do not know",
        "tracking for the {} has not moved for a week",
        "the courier left the {} in the rain",
        "can the {} be sent to my office instead",
        "only half of the order came, the {} is missing",
    ),
    "returns": (
        "I would like to send the {} back",
        "the {} is too small, may I exchange it",
        "how long can I keep the {} before returning it",
        "I returned the {} and still wait for my money",
        "the return label for the {} does not print",
        "I changed my mind about the {}",
    ),
    "technical": (
        "the {} does not switch on",
        "the {} makes a strange noise",
        "a part of the {} broke on the first day",
        "the manual of the {} is missing a page",
        "the {} gets very hot after ten minutes",
        "the app does not find the {}",
    ),
}
ROWS = 320
TICKETS = Path(__file__).resolve().parents[1] / "examples" / "tickets" / "tickets.csv"


def main() -> None:
    """Write the rows in random order; each message occurs once."""
    chance = random.Random(17)  # noqa: S311 (rows of an example)
    every = [
        (f"{opening} {problem.format(thing)}. {ending}", team)
        for team, problems in PROBLEMS.items()
        for problem in problems
        for thing in THINGS
        for opening in OPENINGS
        for ending in ENDINGS
    ]
    with TICKETS.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("message", "team"))
        writer.writerows(chance.sample(every, ROWS))


if __name__ == "__main__":
    main()
