"""`make bench`: how fast and how small, as a table of ratios against floors measured in the same run."""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from pathlib import Path

HEAD = ("what", "value", "floor", "ratio", "must", "verdict")
WIDTHS = (62, 10, 10, 6, 22, 7)


def line(cells: tuple[str, ...]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True))
    return f"| {' | '.join(padded)} |"


def main() -> int:
    """Measure and print; 0 whatever the figures are, because a busy machine is no error."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only see that everything can be measured")
    quick = parser.parse_args().quick
    from tests.bench.rows import QUICK, Effort, measure

    print(f"Python {platform.python_version()}, {platform.machine()}; floor: a bare FastAPI route, same uvicorn\n")
    print(line(HEAD), line(tuple("-" * width for width in WIDTHS)), sep="\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="ot2-bench-") as folder:
        for row in measure(QUICK if quick else Effort(), Path(folder)):
            print(line(row.cells), flush=True)
    return 0


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)
    raise SystemExit(main())
