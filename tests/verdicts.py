"""What the tests of the verifiers share. Not a test itself."""

from typing import Any, TypeAlias

from bbdistill.types import Abstain, Prompt
from bbdistill.verify import Verifier

Said: TypeAlias = tuple[float, bool, str] | str
"""Score, passed and feedback of a verdict; of an abstention the reason."""

RIGHT: Said = (1.0, True, "")


def wrong(feedback: str, score: float = 0.0) -> Said:
    return (score, False, feedback)


def prompt(reference: Any = None) -> Prompt:
    return Prompt(id="p", messages=({"role": "user", "content": "?"},), reference=reference)


def said(verifier: Verifier, answer: str, reference: Any = None) -> Said:
    """What it says of an answer; the feedback can be sent and stored, whatever the answer was."""
    verdict = verifier(prompt(reference), answer)
    if isinstance(verdict, Abstain):
        return verdict.reason
    for text in (verdict.feedback, *(text for span in verdict.spans for text in (span.where, span.why))):
        text.encode()
        assert len(text) < 3_000
    return (verdict.score, verdict.passed, verdict.feedback)
