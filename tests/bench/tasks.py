"""The tasks that the benchmark calls: one that does nothing, one that prints."""

from ot2_agent import task


@task(effects="none")
def add(a: int, b: int = 2) -> int:
    """Add two numbers."""
    return a + b


@task(effects="none")
def chatter(lines: int) -> int:
    """Print short lines."""
    for number in range(lines):
        print("line", number)
    return lines
