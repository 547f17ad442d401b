"""`retrieval:FILE`: the answer is a search query; what counts is where it finds the right document (FTS5, BM25)."""

import json
import re
import sqlite3
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bbdistill.errors import ConfigError
from bbdistill.types import Abstain, Prompt, Verdict
from bbdistill.verify.base import one_line, writable

DEPTH = 10
"""Hits that are looked at; a document further down counts as not found."""
WORDS = 64
"""Different words of a query that are used, from its beginning."""
SHOWN = 3
_SNIPPET = 100
_EXCERPT = 400


class Retrieval:
    """Score 1 / rank of the document that the prompt's reference names, 0 beyond `DEPTH`; passed within the first `k`.

    `path`: a JSONL file of {"id", "text"}, or a directory of UTF-8 text files, whose ids are their relative paths. The
    index is in memory. A query is taken as a set of words of which any may match; nothing in it is an operator.
    Abstains where the reference is not the id of a document. With `reveal` the feedback shows how that one begins.
    """

    def __init__(self, path: Path, *, k: int = 5, reveal: bool = False) -> None:
        if not 1 <= k <= DEPTH:
            raise ConfigError(f"`retrieval`: `k` must be between 1 and {DEPTH}, got {k}")
        self._k = k
        self._reveal = reveal
        self._lock = threading.Lock()
        self._index = sqlite3.connect(":memory:", check_same_thread=False)
        self._index.execute("CREATE VIRTUAL TABLE documents USING fts5 (id UNINDEXED, text)")
        documents = _documents(path)
        if not documents:
            raise ConfigError(f"`{path}` has no document")
        name, count = Counter(name for name, _ in documents).most_common(1)[0]
        if count > 1:
            raise ConfigError(f"`{path}` has {count} documents with the id `{name}`; ids must differ")
        self._texts = dict(documents)
        self._index.executemany("INSERT INTO documents VALUES (?, ?)", documents)

    def __call__(self, prompt: Prompt, answer: str, /) -> Verdict | Abstain:
        wanted: object = prompt.reference
        if not isinstance(wanted, str) or wanted not in self._texts:
            return Abstain(reason="the reference is not the id of a document")
        words = _words(answer)
        hits = self._search(words)
        names = [name for name, _ in hits]
        rank = names.index(wanted) + 1 if wanted in names else None
        score = 0.0 if rank is None else 1 / rank
        if rank is not None and rank <= self._k:
            return Verdict(score=score, passed=True, feedback="")
        why = self._why(answer, words, rank, [hit for hit in hits if hit[0] != wanted])
        if self._reveal:
            why += f" The right document is `{wanted}` ({one_line(self._texts[wanted], _EXCERPT)})."
        return Verdict(score=score, passed=False, feedback=why)

    def _why(self, query: str, words: list[str], rank: int | None, others: list[tuple[str, str]]) -> str:
        if not words:
            return "The query is empty." if not query.strip() else "The query has no word to search for."
        if not others:
            return "Nothing was found: no document has any word of the query."
        where = f"only in place {rank}" if rank is not None else f"not among the first {DEPTH}"
        before = others[: min(SHOWN, rank - 1 if rank is not None else SHOWN)]
        found = "; ".join(f"`{name}` ({one_line(text, _SNIPPET)})" for name, text in before)
        return f"The right document is {where}. Found {'before it' if rank is not None else 'instead'}: {found}."

    def _search(self, words: list[str]) -> list[tuple[str, str]]:
        """(id, text around the words) of the best documents; those that match equally well go by their id."""
        if not words:
            return []
        # In quotes a word is a word, whatever it means to FTS5 otherwise.
        query = " OR ".join(f'"{word}"' for word in words)
        with self._lock:
            return self._index.execute(
                "SELECT id, snippet(documents, 1, '', '', '…', 12) FROM documents WHERE documents MATCH ? "
                "ORDER BY rank, id LIMIT ?",
                (query, DEPTH),
            ).fetchall()


def _words(query: str) -> list[str]:
    """Its different words, without what no word is made of. An accent apart from its letter would cut a word in two."""
    found: dict[str, None] = {}
    for match in re.finditer(r"\w+", unicodedata.normalize("NFC", query)):
        # Not casefold(): the index keeps "ß".
        found[match.group().lower()[:100]] = None
        if len(found) == WORDS:
            break
    return list(found)


def _documents(path: Path) -> list[tuple[str, str]]:
    try:
        return list(_from_directory(path) if path.is_dir() else _from_lines(path))
    except OSError as fault:
        raise ConfigError(f"the documents `{path}` cannot be read: {fault.strerror}") from None


def _from_directory(path: Path) -> Iterator[tuple[str, str]]:
    for file in sorted(path.rglob("*")):
        if file.is_file():
            yield writable(file.relative_to(path).as_posix()), _text(file)


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"the document `{file}` is not UTF-8 text; move it elsewhere, or convert it") from None


def _from_lines(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
            # Half a surrogate pair loads, and SQLite takes no such text.
            json.dumps(row, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            row = None
        match row:
            case {"id": str() as name, "text": str() as text} if name:
                yield name, text
            case _:
                raise ConfigError(f'`{path}` line {number}: expected {{"id": "...", "text": "..."}}')
