"""`retrieval`: where a query finds the right document, what it found instead, and queries that are none."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from verdicts import RIGHT, Said, said, wrong

from bbdistill import verify
from bbdistill.errors import ConfigError
from bbdistill.verify import Retrieval

DOCUMENTS = {
    "hours": "Our shop opens at nine.",
    "street": "Die Straße nach Köln",
    "menu": "résumé of the menu: soup, bread",
    "logic": "AND OR NOT NEAR are words of logic",
    "snake": "the name order_number stands in the form",
    "soup-2": "soup soup soup",
    "soup-3": "soup",
    "soup-1": "soup",
    "greek": "Σίσυφος",
}
UNKNOWN = "the reference is not the id of a document"
NOTHING = wrong("Nothing was found: no document has any word of the query.")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("documents") / "documents.jsonl"
    path.write_text("\n".join(json.dumps({"id": name, "text": text}) for name, text in DOCUMENTS.items()))
    return path


CASES: dict[str, tuple[Any, str, Said]] = {
    "found first": ("hours", "when does the shop open", RIGHT),
    "any word will do": ("hours", "zebra shop", RIGHT),
    "other case": ("hours", "SHOP", RIGHT),
    "sharp s": ("street", "Straße", RIGHT),
    "accents left out": ("street", "koln strasse", RIGHT),
    "accents apart from their letters": ("menu", "re\u0301sume\u0301", RIGHT),
    "greek": ("greek", "ΣΊΣΥΦΟΣ", RIGHT),
    "a name with a line below": ("snake", "order_number", RIGHT),
    "words that are operators": ("logic", "AND", RIGHT),
    "an expression of operators": ("logic", '"NEAR(" AND OR NOT ^ * {id text}: - + (logic', RIGHT),
    "quotes": ("hours", 'shop" OR "', RIGHT),
    "a column": ("hours", "id:hours", NOTHING),
    "an injection": ("hours", "shop'; DROP TABLE documents; --", RIGHT),
    "half a surrogate pair": ("hours", "\ud83d shop", RIGHT),
    "null bytes": ("hours", "\x00shop\x00", RIGHT),
    "10 MB of one word": ("hours", "x" * 10_000_000, NOTHING),
    "10 MB of words": ("hours", "shop " * 2_000_000, RIGHT),
    "too late": ("hours", " ".join(f"w{n}" for n in range(64)) + " shop", NOTHING),
    "in place 2": ("soup-1", "soup", (0.5, True, "")),
    "in place 3, by the id": ("soup-3", "soup", (1 / 3, True, "")),
    "empty": ("hours", "", wrong("The query is empty.")),
    "only space": ("hours", " \n", wrong("The query is empty.")),
    "no word": ("hours", "?! -- *", wrong("The query has no word to search for.")),
    "lines below": ("hours", "___", NOTHING),
    "no such word": ("hours", "zebra", NOTHING),
    "another document": (
        "hours",
        "logic soup",
        wrong(
            "The right document is not among the first 10. Found instead: "
            "`logic` (AND OR NOT NEAR are words of logic); `soup-2` (soup soup soup); `soup-1` (soup)."
        ),
    ),
    "no such document": ("zebra", "shop", UNKNOWN),
    "no reference": (None, "shop", UNKNOWN),
    "a number": (1, "shop", UNKNOWN),
}


@pytest.mark.parametrize("case", CASES)
def test_retrieval(case: str, file: Path):
    reference, query, expected = CASES[case]
    assert said(Retrieval(file), query, reference) == expected


@pytest.mark.parametrize(
    ("k", "reveal", "expected"),
    [
        (4, False, (0.25, True, "")),
        (
            3,
            False,
            wrong(
                "The right document is only in place 4. Found before it: "
                "`soup-2` (soup soup soup); `soup-1` (soup); `soup-3` (soup).",
                0.25,
            ),
        ),
        (
            1,
            True,
            wrong(
                "The right document is only in place 4. Found before it: "
                "`soup-2` (soup soup soup); `soup-1` (soup); `soup-3` (soup). "
                "The right document is `menu` (résumé of the menu: soup, bread).",
                0.25,
            ),
        ),
    ],
)
def test_k_says_how_deep_the_right_document_may_stand(k: int, reveal: bool, expected: Said, file: Path):
    assert said(Retrieval(file, k=k, reveal=reveal), "soup", "menu") == expected


def test_a_directory_is_documents_by_their_paths(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.md").write_text("\ufefffox", encoding="utf-8")
    (tmp_path / "b.txt").write_text("dog\n" * 100 + "a fox")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = verify.load({"use": "retrieval:.", "k": 1}, base=tmp_path, reveal=False)
    assert said(found, "fox", "sub/a.md") == RIGHT
    assert said(found, "fox", "b.txt") == wrong(
        "The right document is only in place 2. Found before it: `sub/a.md` (fox).", 0.5
    )


def test_one_index_serves_many_threads(file: Path):
    retrieval = Retrieval(file)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: said(retrieval, "shop", "hours"), range(64))) == {RIGHT}


BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"\n \n", "`{}` has no document"),
    "not JSON": (b'{"id": "a", "text": "x"}\nnope', '`{}` line 2: expected {{"id": "...", "text": "..."}}'),
    "no text": (b'{"id": "a"}', '`{}` line 1: expected {{"id": "...", "text": "..."}}'),
    "a number as id": (b'{"id": 1, "text": "x"}', '`{}` line 1: expected {{"id": "...", "text": "..."}}'),
    "an empty id": (b'{"id": "", "text": "x"}', '`{}` line 1: expected {{"id": "...", "text": "..."}}'),
    "nested too deeply": (b"[" * 100_000, '`{}` line 1: expected {{"id": "...", "text": "..."}}'),
    "half a surrogate pair": (
        b'{"id": "a", "text": "\\ud83d"}',
        '`{}` line 1: expected {{"id": "...", "text": "..."}}',
    ),
    "an id twice": (
        b'{"id": "a", "text": "x"}\n{"id": "b", "text": "y"}\n{"id": "a", "text": "z"}',
        "`{}` has 2 documents with the id `a`; ids must differ",
    ),
    "binary": (b"\xff\x00\xfe", "the document `{}` is not UTF-8 text; move it elsewhere, or convert it"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused(case: str, tmp_path: Path):
    content, says = BROKEN[case]
    path = tmp_path / "d.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        verify.load("retrieval:d.jsonl", base=tmp_path, reveal=False)
    assert str(caught.value) == says.format(path)


def test_a_file_that_is_not_there_or_has_no_text_is_named(tmp_path: Path):
    with pytest.raises(ConfigError) as caught:
        Retrieval(tmp_path / "none")
    assert str(caught.value) == f"the documents `{tmp_path / 'none'}` cannot be read: No such file or directory"
    with pytest.raises(ConfigError) as caught:
        Retrieval(tmp_path)
    assert str(caught.value) == f"`{tmp_path}` has no document"
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    with pytest.raises(ConfigError) as caught:
        Retrieval(tmp_path)
    assert str(caught.value).startswith(f"the document `{tmp_path / 'image.png'}` is not UTF-8 text")


def test_a_name_that_is_no_text_is_still_a_document(tmp_path: Path):
    (tmp_path / "a").write_text("fox")
    with open(bytes(tmp_path) + b"/\xff.txt", "w") as file:
        file.write("fox")
    assert said(Retrieval(tmp_path), "fox", "a")[1] is True


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("retrieval", "the verifier `retrieval` needs its file: `retrieval:FILE`"),
        ({"use": "retrieval:d", "k": 11}, "the verifier `retrieval`: `k`: expected at most 10, got 11"),
        ({"use": "retrieval:d", "k": 0}, "the verifier `retrieval`: `k`: expected 1 or more, got 0"),
    ],
)
def test_a_wrong_spec_is_refused(spec: verify.Spec, says: str, tmp_path: Path):
    with pytest.raises(ConfigError) as caught:
        verify.load(spec, base=tmp_path, reveal=False)
    assert str(caught.value) == says
