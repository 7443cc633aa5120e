"""The words about each parameter in a docstring: the styles of Google, NumPy and Sphinx. Stdlib only."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

_SECTION = re.compile(r"(Args|Arguments|Parameters|Params):?\s*")
_GOOGLE = re.compile(r"\*{0,2}(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)")
_NUMPY = re.compile(r"(\w+)\s*(?::.*)?")
_SPHINX = re.compile(r"\s*:param\s+(?:[^:]*\s)?(\w+)\s*:\s*(.*)")


def parameter_docs(doc: str) -> dict[str, str]:
    """What a cleaned docstring says of each parameter, on one line."""
    lines = doc.splitlines()
    found = [*_sphinx(lines), *_sections(lines)]
    return {name: " ".join(" ".join(text).split()) for name, text in found if any(text)}


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _sphinx(lines: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    for index, line in enumerate(lines):
        found = _SPHINX.fullmatch(line)
        if found:
            yield found[1], [found[2], *_deeper(lines[index + 1 :], _indent(line))]


def _deeper(lines: Sequence[str], indent: int) -> Iterator[str]:
    """The lines that go on with an entry: indented more than it, up to an empty one."""
    for line in lines:
        if not line.strip() or _indent(line) <= indent:
            return
        yield line


def _sections(lines: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    for index, line in enumerate(lines):
        if not _SECTION.fullmatch(line):
            continue
        after = lines[index + 1 :]
        if after and re.fullmatch(r"-{3,}\s*", after[0]):
            yield from _entries(after[1:], _NUMPY, 0)
        elif after and _indent(after[0]) > 0:
            yield from _entries(after, _GOOGLE, _indent(after[0]))


def _entries(lines: Sequence[str], form: re.Pattern[str], indent: int) -> Iterator[tuple[str, list[str]]]:
    for index, line in enumerate(lines):
        if not line.strip():
            continue
        if _indent(line) < indent or re.fullmatch(r"[-=]{3,}", line):
            return
        found = form.fullmatch(line.strip()) if _indent(line) == indent else None
        if found:
            yield found[1], [*found.groups()[1:], *_deeper(lines[index + 1 :], indent)]
