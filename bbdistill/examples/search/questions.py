"""From documents to questions that they answer, in two splits that share no document. No torch."""

import asyncio
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from bbdistill.errors import TeacherError
from bbdistill.examples.search.passages import Document
from bbdistill.teacher.teacher import Teacher
from bbdistill.types import Abstain, Prompt, Verdict
from bbdistill.verify.retrieval import Retrieval

ASKED = 150
"""Documents that questions are asked about, at most."""
EACH = 3
"""Questions asked about one document."""
TRAIN, TEST = 120, 60
"""Questions kept, at most."""
HITS = 5
"""A query is right if its document is among as many."""
SYSTEM = (
    "You search the documentation for the document that answers the question. Write the query for its full-text "
    "search: a few key words that stand in that document. Reply with the query alone."
)
_NAMES = re.compile(r"`|\w_\w|--\w|\w\.[a-z]")
"""What a question has that copies a name out of its document: of a file, a key, an option."""
Asked: TypeAlias = Sequence[tuple[Document, tuple[str, ...] | Abstain]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    text: str
    document: str
    """The id of the one that answers it."""

    def prompt(self, name: str) -> Prompt:
        messages = ({"role": "system", "content": SYSTEM}, {"role": "user", "content": self.text})
        return Prompt(id=name, messages=messages, reference=self.document)

    def row(self, name: str) -> dict[str, Any]:
        """A line of train.jsonl or test.jsonl."""
        prompt = self.prompt(name)
        return {"id": prompt.id, "messages": list(prompt.messages), "reference": prompt.reference}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The questions of the example, and what became of the others."""

    train: tuple[Question, ...]
    test: tuple[Question, ...]
    asked: int
    """Documents."""
    abstained: Counter[str]
    """Documents without a usable question, by the reason."""
    duplicates: int
    naming: int
    """Questions that name what a person who asks does not know."""
    easy: int
    """Training questions whose own words find their document first; `easy_kept` of them were needed to have enough."""
    easy_kept: int
    plain_hits: float
    """Share of the test questions that, word for word, are queries with their document among the first `HITS`."""
    plain_score: float
    """Mean of 1 / rank of the same."""

    def lines(self) -> list[str]:
        """For whoever made the example."""
        reasons = ", ".join(f"{reason} ({count})" for reason, count in self.abstained.most_common(3))
        nothing = f"; nothing usable about {self.abstained.total()} of them: {reasons}" if reasons else ""
        return [
            f"{self.asked} documents asked about{nothing}",
            f"left out: {self.naming} questions that name a file, a key or an option, {self.duplicates} that "
            "were there already",
            f"{len(self.train)} questions to train on; {self.easy} find their document first with their own words, "
            f"and {self.easy_kept} of these are kept",
            f"{len(self.test)} questions to test on, about other documents; asked word for word, they find it with "
            f"hit@{HITS} {self.plain_hits:.3f}, mean 1/rank {self.plain_score:.3f}: what a student has to beat",
        ]


async def ask(teacher: Teacher, documents: Sequence[Document]) -> Asked:
    """Questions about each document, all asked at once."""
    answers = await asyncio.gather(*(teacher.questions(document.text, EACH) for document in documents))
    return list(zip(documents, answers, strict=True))


def drawn(documents: Sequence[Document]) -> list[Document]:
    """Those that questions are asked about, in an order that depends on their ids alone."""
    return sorted(documents, key=lambda document: hashlib.sha256(document.id.encode()).digest())[:ASKED]


def choose(asked: Asked, index: Retrieval) -> Chosen:
    """The last third of the documents is for the test. TeacherError where there is not enough to train and test on.

    A training question whose own words rank its document first has nothing to teach, and is taken only where there are
    too few others. The test takes them as they come: a choice by what the plain question finds would make it look bad.
    """
    border = len(asked) - len(asked) // 3
    given = [*_in_turn(asked[:border]), *_in_turn(asked[border:])]
    offered = [each for each in given if not _NAMES.search(each.text)]
    first: dict[str, Question] = {}
    for each in offered:
        first.setdefault(_plain(each), each)
    different = list(first.values())
    for_test = {document.id for document, _ in asked[border:]}
    test = [each for each in different if each.document in for_test][:TEST]
    rest = [each for each in different if each.document not in for_test]
    easy = [each for each in rest if _rank(each, index) == 1.0]
    left_out = easy[max(0, TRAIN - (len(rest) - len(easy))) :]
    train = [each for each in rest if each not in left_out][:TRAIN]
    abstained = Counter(answer.reason for _, answer in asked if isinstance(answer, Abstain))
    if len(train) < 2 or not test:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in abstained.most_common(3)) or "no reason given"
        raise TeacherError(
            f"{len(asked)} documents gave {len(train)} questions to train and {len(test)} to test on, and 2 and 1 are "
            f"needed: {reasons}; ask another teacher, or give more documents"
        )
    return Chosen(
        train=tuple(train),
        test=tuple(test),
        asked=len(asked),
        abstained=abstained,
        duplicates=len(offered) - len(different),
        naming=len(given) - len(offered),
        easy=len(easy),
        easy_kept=len(easy) - len(left_out),
        plain_hits=sum(_rank(each, index) >= 1 / HITS for each in test) / len(test),
        plain_score=sum(_rank(each, index) for each in test) / len(test),
    )


def _in_turn(asked: Asked) -> Iterator[Question]:
    """The first question about each document, then the second."""
    for turn in range(EACH):
        for document, answer in asked:
            if not isinstance(answer, Abstain) and turn < len(answer):
                yield Question(text=answer[turn], document=document.id)


def _rank(question: Question, index: Retrieval) -> float:
    """1 / rank of its document where the question is the query; 0 where it is not found."""
    verdict = index(question.prompt("plain"), question.text)
    assert isinstance(verdict, Verdict)  # every document is in the index
    return verdict.score


def _plain(question: Question) -> str:
    return " ".join(re.findall(r"\w+", question.text.casefold()))
