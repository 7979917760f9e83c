"""BENCHMARKS.md: a section a subcommand of tools/benchmark.py, written between two marks; everything else of the file stays."""

from collections.abc import Mapping
from typing import Any


class DocumentError(ValueError):
    """A document whose marks are not a pair in order; the message is one line."""


def section(name: str, text: str, record: Mapping[str, Any]) -> str:
    """The tables, under the date, the machine, the versions and the command."""
    machine, versions = record["machine"], {**record["versions"], **record.get("engines", {})}
    listed = ", ".join(f"{package} {version}" for package, version in versions.items())
    where = f"{machine['cores']} cores of {machine['processor']}, load {machine['load']:.1f}, {machine['system']}"
    return (
        f"## {name}\n\n{record['date'][:10]}; {where}; {listed}\n\n    {record['command']}\n\n```text\n{text.rstrip()}\n```\n"
    )


def replaced(document: str, name: str, body: str) -> str:
    """A Markdown text with the section of that name put in place of the one before, or behind all. Raises DocumentError."""
    begin, end = f"<!-- {name}: written by tools/benchmark.py -->", f"<!-- end of {name} -->"
    own = f"{begin}\n\n{body}\n{end}"
    if begin not in document and end not in document:
        return f"{document.rstrip()}\n\n{own}\n" if document.strip() else f"# Benchmarks\n\n{own}\n"
    if document.count(begin) != 1 or document.count(end) != 1 or document.index(begin) > document.index(end):
        raise DocumentError(f"needed are one line '{begin}' and, behind it, one '{end}', or neither")
    before, rest = document.split(begin)
    return f"{before}{own}{rest.split(end)[1]}"
