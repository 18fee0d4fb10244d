"""How long the command line takes to answer without doing anything, beside Python alone and beside importing torch.

    python benchmarks/start_up.py [--times 9] [--out FILE]

Seconds are the medians of as many starts each, taken in turns, after one that does not count. What is imported for
`--help` is held by a test, as its time depends on the machine.
"""

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from describe import described, machine

from lumigraph.files import write_json

RESULTS = Path(__file__).parent / "results"
COMMANDS = {
    "python": ["-c", ""],
    "help": ["-m", "lumigraph", "--help"],
    "help of train ngp": ["-m", "lumigraph", "train", "ngp", "--help"],
    "import torch": ["-c", "import torch"],
}


def seconds(arguments: list[str]) -> float:
    """Of one start, from outside."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("--times", type=int, default=9, help="starts of each command")
    parser.add_argument("--out", type=Path, default=RESULTS / "start_up.json", help="file for the table")
    arguments = parser.parse_args()
    rounds = [
        {name: seconds(command) for name, command in COMMANDS.items()} for _ in range(arguments.times + 1)
    ]
    medians = {name: median(each[name] for each in rounds[1:]) for name in COMMANDS}
    rows = [
        {"command": name, "seconds": round(taken, 3), "times_python": round(taken / medians["python"], 1)}
        for name, taken in medians.items()
    ]
    for row in rows:
        print(f"{row['command']:18} {row['seconds']:.3f} s, {row['times_python']} times Python alone")
    write_json(arguments.out, {"machine": machine(), "times": arguments.times, "commands": rows})
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
