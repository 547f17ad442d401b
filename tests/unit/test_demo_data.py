"""The demo's task files: reproducible, balanced, with no phrase, name or product in both splits."""

import importlib.util
import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "bbdistill" / "demo"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_data", ROOT / "scripts" / "demo_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo_data"] = module
    spec.loader.exec_module(module)
    return module


demo_data = load_script()


def shipped_rows(split: str) -> list[dict[str, Any]]:
    """The lines of a split in the order of writing; the validation e-mails were written with the train e-mails."""
    files = ("train", "validation") if split == "train" else (split,)
    return sorted((row for name in files for row in lines_of(name)), key=lambda row: row["id"])


def lines_of(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (SHIPPED / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def mail(row: dict[str, Any]) -> str:
    return row["messages"][-1]["content"]


def phrases(split: str) -> set[str]:
    bank = demo_data.BANKS[split]
    tables: Iterable[Any] = (getattr(bank, name) for name in demo_data.Bank.__dataclass_fields__)
    found: set[str] = set()
    for table in tables:
        match table:
            case dict():
                found.update(*table.values())
            case str():
                found.update(table.split())
            case _:
                found.update(table)
    return found


def test_shipped_files_are_what_the_script_writes():
    for name, text in demo_data.files().items():
        assert (SHIPPED / name).read_bytes() == text.encode(), f"{name}: run scripts/demo_data.py"


def test_another_seed_gives_other_mails():
    assert demo_data.files(seed=1)["test.jsonl"] != demo_data.files(seed=2)["test.jsonl"]


def test_splits_share_no_phrase_name_product_or_mail():
    assert phrases("train") & phrases("test") == set()
    train, test = (demo_data.BANKS[split] for split in ("train", "test"))
    brand = {product.split()[0] for product in train.products} & {product.split()[0] for product in test.products}
    kind = {product.split()[-1] for product in train.products} & {product.split()[-1] for product in test.products}
    assert brand | kind == set()
    assert {mail(row) for row in shipped_rows("train")} & {mail(row) for row in shipped_rows("test")} == set()


@pytest.mark.parametrize("split", ["train", "test"])
def test_banks_are_rich_and_no_phrase_is_twice(split: str):
    bank = demo_data.BANKS[split]
    assert {category: len(set(bank.bodies[category])) for category in demo_data.CATEGORIES} == dict.fromkeys(
        demo_data.CATEGORIES, 12
    )
    for category in demo_data.CATEGORIES:
        assert all("{product}" in body for body in bank.bodies[category])


def test_a_tenth_of_the_train_mails_is_kept_for_validation():
    assert (len(lines_of("train")), len(lines_of("validation"))) == (180, 20)


@pytest.mark.parametrize(("split", "size", "labelled"), [("train", 200, 100), ("test", 120, 120)])
def test_sizes_ids_and_labels(split: str, size: int, labelled: int):
    rows = shipped_rows(split)
    assert [row["id"] for row in rows] == [f"{split}-{number:03d}" for number in range(size)]
    assert sum("reference" in row for row in rows) == labelled
    assert len({mail(row) for row in rows}) == size
    assert {row["messages"][0]["content"] for row in rows} == {demo_data.SYSTEM}


@pytest.mark.parametrize("split", ["train", "test"])
def test_references_are_valid_and_stand_verbatim_in_the_mail(split: str):
    check = jsonschema.Draft202012Validator(json.loads((SHIPPED / "ticket.schema.json").read_text()))
    for row in shipped_rows(split):
        if "reference" not in row:
            continue
        reference = row["reference"]
        assert list(check.iter_errors(reference)) == []
        for key in ("customer", "order", "product"):
            assert reference[key] is None or reference[key] in mail(row), row["id"]
        assert "{" not in mail(row)


@pytest.mark.parametrize("split", ["train", "test"])
def test_classes_are_balanced(split: str):
    references = [row["reference"] for row in shipped_rows(split) if "reference" in row]
    for key, low, high in (("category", 0.15, 0.25), ("urgency", 0.1, 0.6)):
        for value, count in Counter(reference[key] for reference in references).items():
            assert low <= count / len(references) <= high, (key, value, count)
    assert 0.1 <= sum(reference["customer"] is None for reference in references) / len(references) <= 0.35
    assert 0.2 <= sum(reference["order"] is None for reference in references) / len(references) <= 0.45
