"""Text files as documents to search in: short ones whole, long ones as passages that end with a paragraph. Pure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bbdistill.errors import ConfigError

SHORTEST, LONGEST = 60, 200
"""Words of a passage, about: a heading ends one from the first on, and none is longer than the second."""
_HEADING = re.compile(r"#{1,6}\s")
_FENCE = re.compile(r"\s*(```|~~~)")
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What a search finds."""

    id: str
    text: str


def read_folder(folder: Path) -> tuple[list[Document], int]:
    """The passages `path#n` of all text files below `folder`, hidden ones apart; and how many files are no UTF-8 text.

    ConfigError where it is no directory, or a file cannot be read.
    """
    if not folder.is_dir():
        raise ConfigError(f"`{folder}` is not a directory; expected one with text files to search in")
    documents: list[Document] = []
    left_out = 0
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        if any(part.startswith(".") for part in name.parts) or not file.is_file():
            continue
        try:
            text = file.read_bytes().decode("utf-8-sig")
        except OSError as fault:
            raise ConfigError(f"`{file}` cannot be read: {fault.strerror}") from None
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            left_out += 1
            continue
        passages = enumerate(split(text), start=1)
        documents += [Document(id=f"{name.as_posix()}#{number}", text=passage) for number, passage in passages]
    return documents, left_out


def split(text: str) -> list[str]:
    """The passages of a text, in order; none where it has no word."""
    if words(text) <= LONGEST:
        return [text.strip()] if words(text) else []
    passages: list[str] = []
    held = ""
    for block, opens in _blocks(text):
        ends = opens and words(held) >= SHORTEST
        if held and (ends or words(held) + words(block) > LONGEST):
            passages.append(held)
            held = block
        else:
            held = f"{held}\n\n{block}" if held else block
    if passages and words(held) < SHORTEST and words(passages[-1]) + words(held) <= LONGEST:
        held = f"{passages.pop()}\n\n{held}"
    return [*passages, held]


def words(text: str) -> int:
    return len(text.split())


def _blocks(text: str) -> Iterator[tuple[str, bool]]:
    """Paragraphs, cut where too long, each with whether it opens a section: a heading stays with what follows."""
    headings: list[str] = []
    for paragraph in _paragraphs(text):
        if _HEADING.match(paragraph) and "\n" not in paragraph:
            headings.append(paragraph)
            continue
        for number, piece in enumerate(_pieces(paragraph, LONGEST - words(" ".join(headings)))):
            opens = number == 0 and bool(headings)
            yield "\n\n".join([*headings, piece] if opens else [piece]), opens
        headings = []
    if headings:
        yield "\n\n".join(headings), True


def _paragraphs(text: str) -> Iterator[str]:
    """What stands between blank lines; a heading by itself, fenced code whole."""
    lines: list[str] = []
    fenced = False
    for line in text.splitlines():
        heading = not fenced and bool(_HEADING.match(line))
        if (heading or not (line.strip() or fenced)) and lines:
            yield "\n".join(lines)
            lines = []
        fenced ^= bool(_FENCE.match(line))
        if heading:
            yield line
        elif line.strip() or fenced:
            lines.append(line)
    if lines:
        yield "\n".join(lines)


def _pieces(paragraph: str, first: int) -> Iterator[str]:
    """The paragraph itself, or runs of its sentences: the first of at most `first` words, the others of `LONGEST`."""
    limit = max(1, first)
    held: list[str] = []
    for part in [paragraph] if words(paragraph) <= limit else _SENTENCE.split(paragraph):
        if held and words(" ".join([*held, part])) > limit:
            yield " ".join(held)
            held, limit = [], LONGEST
        while words(part) > limit:
            cut = part.split()
            yield " ".join(cut[:limit])
            part, limit = " ".join(cut[limit:]), LONGEST
        held.append(part)
    if held:
        yield " ".join(held)
