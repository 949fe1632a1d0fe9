"""Counts what makes the product's code hard to read: `python tests/voice.py [ROOT] [--places COUNT]`.

A name is a variable that the code reads or writes (`ast.Name`), each time it does; attributes, keywords and the words
of docstrings are not counted. A function's lines are its signature and body, without decorators. Public is what has no
leading underscore and stands in nothing that has one. `--places one` lists every place of the variable `one`.
The script needs the standard library only and works on any checkout.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator
from pathlib import Path

FOLDERS = ("rbserve", "train", "exporters", "profilers")
EMPTY_NAMES = ("one", "found", "asked", "some", "what", "said", "told", "kept", "given")
LONGEST_FUNCTION = 60
SAME = 'docstrings that open with "The same"'
TWICE = "class names defined more than once"
LONG = f"functions of more than {LONGEST_FUNCTION} lines"
UNDOCUMENTED = "public modules, classes and functions without a docstring"
COUNTS = (*EMPTY_NAMES, SAME, TWICE, LONG, UNDOCUMENTED)

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef


def product_files(root: Path) -> list[Path]:
    """Python files of the product, each once, also where one folder is a link to another."""
    return sorted({file.resolve() for folder in FOLDERS for file in (root / folder).rglob("*.py")})


def count_voice(root: Path) -> tuple[dict[str, list[str]], int]:
    """(places `file:line name` by count, number of names) of the product's code below a checkout's root."""
    places: dict[str, list[str]] = {count: [] for count in COUNTS}
    classes: dict[str, list[str]] = {}
    names = 0
    for file in product_files(root):
        tree = ast.parse(file.read_text())
        where = str(file.relative_to(root.resolve()))
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                names += 1
                if node.id in EMPTY_NAMES:
                    places[node.id].append(f"{where}:{node.lineno} {node.id}")
            elif isinstance(node, ast.ClassDef):
                classes.setdefault(node.name, []).append(f"{where}:{node.lineno} {node.name}")
        for count, line, name in _documentation(tree):
            places[count].append(f"{where}:{line} {name}")
    places[TWICE] = [", ".join(definitions) for definitions in classes.values() if len(definitions) > 1]
    return places, names


def _documentation(tree: ast.Module) -> Iterator[tuple[str, int, str]]:
    """(count, line, name) of each long function, missing docstring and docstring that opens with "The same"."""
    public = _public(tree)
    if ast.get_docstring(tree) is None:
        yield UNDOCUMENTED, 1, "module"
    elif _opens_with_same(tree):
        yield SAME, 1, "module"
    for node in ast.walk(tree):
        if not isinstance(node, Definition):
            continue
        if isinstance(node, Function) and (node.end_lineno or 0) - node.lineno + 1 > LONGEST_FUNCTION:
            yield LONG, node.lineno, node.name
        if _opens_with_same(node):
            yield SAME, node.lineno, node.name
        elif node in public and ast.get_docstring(node) is None:
            yield UNDOCUMENTED, node.lineno, node.name


def _opens_with_same(node: Definition | ast.Module) -> bool:
    return (ast.get_docstring(node) or "").startswith("The same")


def _public(scope: ast.Module | ast.ClassDef) -> set[Definition]:
    """Classes, functions and methods without a leading underscore, in nothing that has one."""
    public: set[Definition] = set()
    for node in scope.body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            public |= {node, *(_public(node) if isinstance(node, ast.ClassDef) else ())}
    return public


def main() -> None:
    """Prints the table, or the places of one count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).resolve().parent.parent)
    parser.add_argument("--places", choices=COUNTS, metavar="COUNT", help="one of the table's rows")
    arguments = parser.parse_args()
    places, names = count_voice(arguments.root)
    if arguments.places:
        print("\n".join(places[arguments.places]))
        return
    print(
        f"{names} names in {len(product_files(arguments.root))} files\n{'':58}{'count':>6}  per 1,000 names"
    )
    for count in COUNTS:
        share = f"{1000 * len(places[count]) / names:17.2f}" if count in EMPTY_NAMES and names else ""
        print(f"{count:58}{len(places[count]):6}{share}")


if __name__ == "__main__":
    main()
