"""What messages tell users to do, gathered from the source, so that no remedy goes untried."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
PACKAGES = ("store", "stages", "pipeline")
PROGRAMS = (
    "7z", "ar", "cabextract", "chmod", "cpio", "cryobase", "dask", "dvc", "find", "git", "gunzip",
    "lz4", "mv", "pip", "rm", "tar", "unrar", "unsquashfs", "xar", "zip",
)  # fmt: skip
VERBS = (
    "add|allow|ask for|bring|check|choose|compare|connect|convert|decrypt|develop|extract|fetch|get"
    "|give|install|join|keep|leave|lower|make|move|multiply|name|pack|pin|point|pool|put|raise"
    "|remove|rename|restore|run|say|scale|see|set|shorten|skip|start|take|train|try|unpack|unset"
    "|upgrade|use|write"
)
COMMAND = re.compile(rf"`((?:{'|'.join(PROGRAMS)})\b[^`]*)`")
LOOSE = re.compile(
    r"\b(?:cryobase (?:[a-z]+|\{\})(?=$|[ ;,.])|dvc [a-z]+|pip install|chmod [-a-z]|git lfs|rm -)"
)
ELSEWHERE = re.compile(r"\{(?:\w+\.)?_?(?:MEND|mend|AGAIN)(?:\(\))?\}")
ADVICE = re.compile(rf"(?:^|[;:,(] |\b(?:or|and|then|first) )(?:{VERBS})\b (?!not)")
WORDS = re.compile(r"[a-zA-Z]{2,}")


def templates() -> Iterator[tuple[str, str]]:
    """(place, text) of every string of the source but docstrings; what is filled in is `{}`."""
    for path in sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        passed = {id(part) for part in _passed(tree)}
        for node in ast.walk(tree):
            if id(node) not in passed and (text := _text(node)):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", text  # type: ignore[attr-defined]


def remedies() -> dict[str, str]:
    """Where each text that says what to do stands."""
    return {text: place for place, text in templates() if _is_remedy(text)}


def _is_remedy(text: str) -> bool:
    if "\n" in text:
        return False
    if COMMAND.search(text) or ELSEWHERE.search(text):
        return True
    return len(WORDS.findall(text)) > 1 and bool(ADVICE.search(text))


def _passed(tree: ast.Module) -> Iterator[ast.AST]:
    """Docstrings, parts of other strings, and the help of the command line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr):
                yield first.value
        elif isinstance(node, ast.JoinedStr):
            yield from (part for part in ast.walk(node) if part is not node)
        elif isinstance(node, ast.keyword) and node.arg == "help":
            yield from ast.walk(node.value)


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if not isinstance(node, ast.JoinedStr):
        return ""
    return "".join(
        part.value if isinstance(part, ast.Constant) else _filled_in(part) for part in node.values
    )


def _filled_in(part: ast.expr) -> str:
    """`{}`, or `{MEND}` where what to do is written elsewhere."""
    assert isinstance(part, ast.FormattedValue)
    name = "{" + ast.unparse(part.value) + "}"
    return name if ELSEWHERE.fullmatch(name) else "{}"


def pattern(template: str) -> re.Pattern[str]:
    """What a message made of a template looks like."""
    parts = re.split(r"\{[^{} ]*\}|%[sd]|%\.\d[a-z]", template)
    return re.compile(".*".join(map(re.escape, parts)), re.DOTALL)
