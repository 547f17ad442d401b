"""What every verifier is: a function of prompt and answer that gives a `Verdict`, or abstains. No torch, no network."""

from collections.abc import Sequence
from typing import Protocol

from bbdistill.types import Abstain, Prompt, Verdict


class Verifier(Protocol):
    def __call__(self, prompt: Prompt, answer: str, /) -> Verdict | Abstain:
        """Never raises for a bad answer: what is wrong with it is the verdict."""
        ...


def combine(verifiers: Sequence[Verifier]) -> Verifier:
    """Several verifiers as one: passed if all pass, score the mean; those that abstain do not count."""

    def check(prompt: Prompt, answer: str, /) -> Verdict | Abstain:
        found = [verifier(prompt, answer) for verifier in verifiers]
        verdicts = [verdict for verdict in found if isinstance(verdict, Verdict)]
        if not verdicts:
            reasons = "; ".join(abstain.reason for abstain in found if isinstance(abstain, Abstain))
            return Abstain(reason=reasons or "no verifier")
        return Verdict(
            score=sum(verdict.score for verdict in verdicts) / len(verdicts),
            passed=all(verdict.passed for verdict in verdicts),
            feedback="\n".join(dict.fromkeys(verdict.feedback for verdict in verdicts if verdict.feedback)),
            spans=tuple(span for verdict in verdicts for span in verdict.spans),
        )

    return check
