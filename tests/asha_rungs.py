"""What the rungs of ASHA hold when a search has ended."""

import json

# The command itself; afterwards it shows them.
SCRIPT = """
import functools, json, sys
from raynas import search
from ray.tune.schedulers import ASHAScheduler

made, begin = [], ASHAScheduler.__init__

@functools.wraps(begin)
def remembered(self, *arguments, **options):
    made.append(self)
    begin(self, *arguments, **options)

ASHAScheduler.__init__ = remembered
code = search.main(sys.argv[1:])
print("RUNGS", json.dumps({int(rung): sorted(values.values()) for rung, values in made[0]._brackets[0]._rungs}))
sys.exit(code)
"""


def shown_rungs(printed: str) -> dict[str, list[float]]:
    """Epochs, as text -> the values of a rung, ascending."""
    shown = next(line for line in printed.splitlines() if line.startswith("RUNGS "))
    rungs: dict[str, list[float]] = json.loads(shown.removeprefix("RUNGS "))
    return rungs
