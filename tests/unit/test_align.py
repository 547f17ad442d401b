"""Units of two tokenizations, by hand and of every way to cut a short text."""

from itertools import combinations

import pytest

from bbdistill.student.align import Unit, units

Spans = list[tuple[tuple[int, int], tuple[int, int]]]


def spans(student: list[bytes], teacher: list[bytes]) -> Spans:
    return [(unit.student, unit.teacher) for unit in units(student, teacher)]


def test_equal_tokens_are_a_unit_each():
    pieces = [b"The", b" cap", b"ital", b""]
    assert spans(pieces, pieces) == [((i, i + 1), (i, i + 1)) for i in range(4)]
    assert all(unit.single for unit in units(pieces, pieces))


def test_a_unit_ends_where_both_have_a_boundary():
    assert spans([b"un", b"happ", b"y", b" man"], [b"unh", b"appy", b" m", b"an"]) == [
        ((0, 3), (0, 2)),
        ((3, 4), (2, 4)),
    ]
    assert spans([b"ab", b"c"], [b"a", b"b", b"c"]) == [((0, 1), (0, 2)), ((1, 2), (2, 3))]
    assert not Unit(student=(0, 1), teacher=(0, 2)).single


def test_a_character_may_be_cut_anywhere():
    face = "🙂".encode()
    assert spans([face[:1], face[1:3], face[3:]], [face[:3], face[3:]]) == [((0, 2), (0, 1)), ((2, 3), (1, 2))]
    assert spans([b"\xff", b"\xf0\x9f"], [b"\xff\xf0", b"\x9f"]) == [((0, 2), (0, 2))]


def test_the_ends_of_turn_are_the_last_unit_and_other_tokens_without_bytes_belong_to_what_follows():
    assert spans([b"a", b"b", b""], [b"ab", b""]) == [((0, 2), (0, 1)), ((2, 3), (1, 2))]
    assert spans([b"", b"a", b"b"], [b"a", b"", b"b"]) == [((0, 2), (0, 1)), ((2, 3), (1, 3))]
    assert spans([b""], [b""]) == [((0, 1), (0, 1))]
    assert spans([b"", b""], [b""]) == [((0, 2), (0, 1))]
    assert spans([], []) == []


def test_an_end_of_turn_on_one_side_alone_is_an_error():
    with pytest.raises(ValueError, match=r"after 1 bytes of text the student has 0 token\(s\) .* the teacher 1"):
        units([b"a"], [b"a", b""])


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ([b"abc", b"de"], [b"ab", b"cX"], r"from byte 3 on the student's say b'de', the teacher's b'X'"),
        ([b"ab"], [b"a", b"bc"], r"from byte 2 on the student's say b'', the teacher's b'c'"),
    ],
)
def test_texts_that_differ_are_an_error_that_names_the_place(student: list[bytes], teacher: list[bytes], message: str):
    with pytest.raises(ValueError, match=message):
        units(student, teacher)


def ways(text: bytes) -> list[list[bytes]]:
    inner = range(1, len(text))
    return [
        [text[first:last] for first, last in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        for count in range(len(text))
        for cuts in combinations(inner, count)
    ]


def test_of_every_two_ways_to_cut_a_text_the_units_are_the_shared_boundaries():
    for student in ways(b"abcdef"):
        for teacher in ways(b"abcdef"):
            found = units(student, teacher)
            both = boundaries(student) & boundaries(teacher)
            assert boundaries([b"".join(student[slice(*unit.student)]) for unit in found]) == both
            assert boundaries([b"".join(teacher[slice(*unit.teacher)]) for unit in found]) == both


def boundaries(pieces: list[bytes]) -> set[int]:
    return {sum(map(len, pieces[: count + 1])) for count in range(len(pieces))}
