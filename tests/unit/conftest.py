"""The tiny random student that several files test against."""

from pathlib import Path

import pytest
from student_fixtures import tiny_config, tiny_student

from bbdistill.student.discriminator import Discriminator
from bbdistill.student.open import open_student
from bbdistill.student.student import Student


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_student(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def opened(model: Path) -> tuple[Student, Discriminator]:
    return open_student(tiny_config(model))


@pytest.fixture
def student(opened: tuple[Student, Discriminator]) -> Student:
    return opened[0]


@pytest.fixture
def discriminator(opened: tuple[Student, Discriminator]) -> Discriminator:
    return opened[1]
