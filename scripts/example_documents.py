#!/usr/bin/env python3
"""Writes the documents of the example `search`: this project's own documentation, in short pieces.

    scripts/example_documents.py

The shipped file stays as it is while the documentation goes on: its questions are recorded. After writing it anew, run
`scripts/record_search`.
"""

import ast
import itertools
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import frontmatter
import typer

from bbdistill.cli import app
from bbdistill.examples.search.passages import Document, split, words

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "bbdistill"
OUT = PACKAGE / "examples" / "search" / "documents.jsonl"
LEAST = {"module": 30, "definition": 40}
"""Words from which on a docstring says enough to be looked for."""
LEFT_OUT = (
    "examples",
    "losses",
    "student/files",
    "verify/inside",
    "verify/math_worker",
    *(f"student/{name}" for name in ("attention", "tree", "decode", "batches", "sample")),
)
"""This example itself, and what only those look for who change it."""
TABLES = {
    "StudentConfig": "the table [student]",
    "ModelConfig": "the tables [teacher] and [judge]",
    "TeacherConfig": "the table [teacher]",
    "TaskConfig": "the table [task]",
    "TrainConfig": "the table [train]",
    "DiscriminatorConfig": "the table [discriminator]",
    "FeedbackConfig": "the table [feedback]",
    "Options": "every verifier",
    "ContainsOptions": "the verifier `contains`",
    "MathOptions": "the verifier `math`",
    "PythonTestsOptions": "the verifier `python_tests`",
    "RetrievalOptions": "the verifier `retrieval`",
}
"""Where the keys of a class stand in a config."""


def main() -> None:
    OUT.write_text(text(), encoding="utf-8")
    print(f"{OUT}: {len(list(documents()))} documents")


def text() -> str:
    """The file, a document a line."""
    return "".join(json.dumps({"id": d.id, "text": d.text}, ensure_ascii=False) + "\n" for d in documents())


def documents() -> Iterator[Document]:
    for number, passage in enumerate(split((ROOT / "README.md").read_text(encoding="utf-8")), start=1):
        yield Document(id=f"README.md#{number}", text=passage)
    yield from commands(typer.main.get_group(app), "bbdistill")
    for name in ("config/models.py", "config/task.py", "config/training.py", "verify/options.py"):
        yield from keys(PACKAGE / name)
    for file in sorted((PACKAGE / "recipes").glob("*.toml")):
        yield from recipe(file)
    for file in sorted((ROOT / "prompts").glob("*.md")):
        about = frontmatter.loads(file.read_text(encoding="utf-8"))["description"]
        yield Document(id=f"prompts/{file.name}", text=f"The teacher prompt prompts/{file.name}. {about}")
    for file in sorted(PACKAGE.rglob("*.py")):
        name = file.relative_to(PACKAGE).as_posix()
        if not name.startswith(LEFT_OUT):
            yield from docstrings(file, name)


def commands(group: typer.core.TyperGroup, name: str) -> Iterator[Document]:
    """Each command with its help and its options."""
    for verb, command in sorted(group.commands.items()):
        if isinstance(command, typer.core.TyperGroup):
            yield from commands(command, f"{name} {verb}")
            continue
        helps = [(max(each.opts, key=len), getattr(each, "help", None)) for each in command.params]
        told = " ".join(f"{option}: {said}" for option, said in helps if said)
        help_text = " ".join((command.help or "").split())
        yield Document(id=f"{name} {verb}", text=f"The command `{name} {verb}`. {help_text} {told}".strip())


def keys(file: Path) -> Iterator[Document]:
    """Each documented key of a config, with those before it that share its line of documentation."""
    for section in ast.parse(file.read_text(encoding="utf-8")).body:
        if not isinstance(section, ast.ClassDef) or section.name not in TABLES:
            continue
        held: list[str] = []
        for node, after in itertools.pairwise(section.body):
            if not isinstance(node, ast.AnnAssign):
                continue
            name = ast.unparse(node.target)
            held.append(f"`{name}`{default(node.value)}")
            match after:
                case ast.Expr(value=ast.Constant(value=str(said))):
                    keys = f"Config key{'s' if len(held) > 1 else ''} {', '.join(held)} of {TABLES[section.name]}."
                    yield Document(id=f"{section.name}.{name}", text=f"{keys} {' '.join(said.split())}")
                    held = []
                case _:
                    pass


def default(value: ast.expr | None) -> str:
    """What the key is where nobody sets it, in words."""
    match value:
        case ast.Call(func=ast.Name(id="Field"), args=[given, *_]):
            return default(given)
        case ast.Constant(value=None):
            return " (not set)"
        case ast.Constant(value=bool(given)):
            return f" ({str(given).lower()})"
        case ast.Constant(value=given):
            return f" ({given})"
        case _:
            return ""


def recipe(file: Path) -> Iterator[Document]:
    """What the recipe is, and its settings with their reasons."""
    lines = file.read_text(encoding="utf-8").splitlines()
    head = " ".join(line.removeprefix("# ") for line in lines if line.startswith("# "))
    yield Document(id=f"recipes/{file.name}", text=f"The recipe `{file.stem}`. {head}")
    settings = "; ".join(" ".join(line.split()) for line in lines if line and not line.startswith("# "))
    assert tomllib.loads("\n".join(lines))
    yield Document(id=f"recipes/{file.name}#settings", text=f"Settings of the recipe `{file.stem}`: {settings}")


def docstrings(file: Path, name: str) -> Iterator[Document]:
    """Of the module, and of its public classes and functions, where they say enough."""
    module = ast.parse(file.read_text(encoding="utf-8"))
    said = ast.get_docstring(module) or ""
    if words(said) >= LEAST["module"]:
        yield Document(id=f"bbdistill/{name}", text=f"bbdistill/{name}: {said}")
    for node in ast.walk(module):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        said = ast.get_docstring(node) or ""
        if words(said) >= LEAST["definition"]:
            yield Document(id=f"bbdistill/{name}#{node.name}", text=f"{node.name}, in bbdistill/{name}: {said}")


if __name__ == "__main__":
    main()
