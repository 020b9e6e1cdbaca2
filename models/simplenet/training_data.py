"""Training data of simplenet: Python's source code, and the English of its documentation."""

import ast
import random
import sysconfig
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from pydoc_data.topics import topics

from vestal.recipes.recipe import Splits
from vestal.training.tables import Texts

LABELS = ("code", "prose")
SPLIT_SEED = 0  # of the data; a training has a seed of its own
LINES, CHARS = 10, 400  # of a passage of code, and of prose
MODULES = 120  # the largest ones
PASSAGES = 12  # at most, of each module


def code_or_prose() -> Splits:
    """Passages of code and prose, split 70 : 10 : 20 by module, topic and description.

    Python and scikit-learn include all of the text. No module, topic or description is in two
    splits.
    """
    books = {**topics, **_descriptions()}
    parts: list[list[tuple[str, int]]] = [[], [], []]
    for index, sources in enumerate((_modules(), books)):
        cut = _code if index == 0 else _prose
        for part, names in zip(parts, _divide(list(sources)), strict=True):
            for name in names:
                part += [(passage, index) for passage in cut(sources[name])]
    train, validation, test = parts
    # Modules copy from each other, so the same passage can be in two splits.
    validation = [passage for passage in validation if passage not in test]
    train = [passage for passage in train if passage not in {*validation, *test}]
    return Splits(Texts(train), Texts(validation), Texts(test))


def _divide(names: list[str]) -> tuple[list[str], list[str], list[str]]:
    names = sorted(names)
    random.Random(SPLIT_SEED).shuffle(names)
    first, second = round(0.7 * len(names)), round(0.8 * len(names))
    return names[:first], names[first:second], names[second:]


def _modules() -> Mapping[str, str]:
    """The largest modules of the standard library that are single files."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    files = sorted(files, key=lambda file: -file.stat().st_size)[:MODULES]
    return {file.name: file.read_text("utf-8") for file in files}


def _descriptions() -> Mapping[str, str]:
    import sklearn.datasets  # imported late: it takes seconds

    folder = Path(sklearn.datasets.__file__).parent / "descr"
    return {file.name: file.read_text("utf-8") for file in folder.glob("*.rst")}


def _code(source: str) -> list[str]:
    """Passages of ten lines of code, without comments and docstrings, which are prose."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [s for s in body if not _is_text(s)] or [ast.Pass()]  # type: ignore[attr-defined]
    lines = ast.unparse(ast.fix_missing_locations(tree)).splitlines()
    pieces = [lines[start : start + LINES] for start in range(0, len(lines), LINES)]
    whole = [textwrap.dedent("\n".join(piece)) for piece in pieces if len(piece) == LINES]
    step = max(1, len(whole) // PASSAGES)
    return whole[::step][:PASSAGES]


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _prose(text: str) -> list[str]:
    """Passages of at least 400 characters, without indented paragraphs, which are mostly code."""
    return list(_joined(paragraph for paragraph in text.split("\n\n") if _is_prose(paragraph)))


def _is_prose(paragraph: str) -> bool:
    lines = paragraph.strip("\n").splitlines()
    return len(paragraph) > 80 and not any(line.startswith(("  ", ".. ", "|")) for line in lines)


def _joined(paragraphs: Iterator[str]) -> Iterator[str]:
    passage = ""
    for paragraph in paragraphs:
        passage = f"{passage}\n\n{paragraph.strip()}".strip()
        if len(passage) >= CHARS:
            yield passage
            passage = ""
    if passage:
        yield passage
