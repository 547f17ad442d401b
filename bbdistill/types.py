"""The data that flows through a run: frozen, slotted, keyword-only.

Suffixes of ragged lists, everywhere in the package: `_P` over prompts, `_G` over the group of one prompt.
Log-probs are in nats, scores in [0, 1] unless a name says otherwise, money in US dollars, times in seconds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Message: TypeAlias = Mapping[str, Any]
"""One chat message as the APIs have it: `role`, `content`, and whatever else the provider knows."""

StopReason = Literal["stop", "length"]
Author = Literal["teacher", "student"]
PairSource = Literal["teacher", "preference", "correction", "pool"]
"""Why one is better: it is the teacher's ("pool": against an earlier student), a judge said so, it mends the other."""
Purpose = Literal["demonstrations", "preferences", "corrections", "rubric", "coaching", "scores", "evaluation"]
"""What a teacher is asked for."""
FEEDBACK: tuple[Purpose, ...] = ("preferences", "corrections", "rubric", "coaching", "scores")
"""Of these, what is asked about answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One task input: a conversation that ends where the model should answer."""

    id: str
    messages: tuple[Message, ...]
    reference: Any = None
    """What is known to be right (any JSON value), for verifiers and evaluation; never shown to a model."""
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One student completion of one prompt, with what is needed to train on it."""

    prompt: Prompt
    sample: int
    """Index within the prompt's group."""
    completion: str
    token_ids: tuple[int, ...]
    """Completion tokens only; the end-of-turn token is included when `stop_reason` is "stop"."""
    logprobs: tuple[float, ...]
    """Nats, under the distribution each token was drawn from; same length as `token_ids`."""
    policy_version: int
    """Number of student updates before this was drawn."""
    stop_reason: StopReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """An answer worth imitating: the teacher's, or one that came with the data."""

    prompt: Prompt
    completion: str
    source: str
    """Teacher id, or "data" where the prompt file carried the completion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """`chosen` was preferred to `rejected` whichever was shown first."""

    prompt: Prompt
    chosen: str
    rejected: str
    strength: float
    """In (0, 1]: mean over the orders of how strongly the judge held it; 1 where the judge only names a winner."""
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tie:
    """No preference: the texts are equal, or two valid answers disagreed across the orders (`flipped`)."""

    prompt: Prompt
    flipped: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Abstain:
    """The teacher or verifier gave nothing usable: counted, its sample masked, never a zero and never a tie."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """The teacher's smallest edit of a rollout that makes it right."""

    rollout: Rollout
    text: str
    reason: str
    """What was told to be wrong: the verifier's feedback, or the teacher's own words; what still is, where it fails."""
    accepted_by: Literal["verifier", "preference"] | None
    """Why it may be trained on; None = not accepted."""
    revisions: int = 1
    """How many edits it took, one after the other."""
    refused: str = ""
    """Why it may not be trained on; empty where it may."""
    region: tuple[int, int] | None = None
    """Characters of `text` that replace what was wrong; None = nobody marked them, and all of it counts."""
    strategy: str = ""
    """What was learned from being wrong, in a sentence; empty where nobody asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """A draft that nothing was learned from, and why; `text` is the newest correction of it, or itself."""

    rollout: Rollout
    text: str
    reason: str
    feedback: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fix:
    """What `Teacher.correct` returns: the corrected text and the teacher's reason."""

    text: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Revising:
    """How far the teacher goes with one answer."""

    limit: int = 1
    """Edits, one after the other; each later one sees the newest text and what the verifier says of it."""
    quoted: bool = False
    """Whether the teacher first quotes what is wrong; what stands before the quote must then stay as it is."""
    strategy: bool = False
    """Whether an accepted correction is followed by the strategy that would have avoided the mistake."""


ONCE = Revising()


@dataclass(frozen=True, slots=True, kw_only=True)
class Critique:
    """Where an answer first goes wrong, as `Teacher.critique` found it."""

    span: tuple[int, int] | None
    """Characters of the answer that were quoted as wrong; None = nothing is wrong."""
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A part of an answer that is wrong: `path` in structured text, or a verbatim quote."""

    where: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a verifier says of one answer."""

    score: float
    """In [0, 1]; partial credit is allowed."""
    passed: bool
    feedback: str
    """For the teacher that corrects: what is wrong and why; empty when passed."""
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Whether an answer meets one criterion, and why, in the judge's words."""

    met: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """Something that answers to one prompt meet or do not meet."""

    text: str
    points: int
    """From 1 to 5: how much hangs on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkedAnswer:
    """An answer that was marked without telling the judge whose it is."""

    author: Author
    text: str
    marks: tuple[Mark, ...] = ()
    """One for each criterion; empty where they cannot be read."""
    score: float | None = None
    """Points that it gets, as a share of all; None without marks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkedGroup:
    """The answers to one prompt, by a rubric that was written for them."""

    prompt: Prompt
    criteria: tuple[Criterion, ...]
    answers: tuple[MarkedAnswer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coaching:
    """What the teacher says of a rollout that failed: advice that would have helped, without the answer."""

    rollout: Rollout
    advice: str


Judgement: TypeAlias = Preference | Tie | Abstain
Verify: TypeAlias = Callable[[Prompt, str], Verdict | Abstain]
"""What a verifier says of one answer to a prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyExample:
    """A rollout and how much more (or less) likely it should become."""

    rollout: Rollout
    advantage: float
    magnitude: tuple[float, ...] | None = None
    """For each of its tokens, how much of the advantage is that token's; None = all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SFTExample:
    """An answer to imitate."""

    prompt: Prompt
    text: str
    region: tuple[int, int] | None = None
    """Characters of `text` that carry weight: what comes before is context. None = all of it, and its end of turn."""
    strategy: str = ""
    """Said before the text, between strategy tags; empty = the text alone, without tags."""
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredToken:
    """One of the teacher's tokens of a text, in the bytes it adds; None = the end of the turn. Log-probs in nats."""

    piece: bytes | None
    logprob: float
    top: tuple[tuple[bytes | None, float], ...] = ()
    """The tokens that it finds likeliest in this place, the likeliest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillExample:
    """A completion, as text or as the very tokens that were drawn, and how likely the teacher finds its tokens."""

    prompt: Prompt
    completion: str | tuple[int, ...]
    scored: tuple[ScoredToken, ...]
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedPair:
    """Two answers to one prompt of which `chosen` is the better one."""

    prompt: Prompt
    chosen: str
    rejected: str
    source: PairSource
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one call as the provider bills them; cached input tokens are part of `input_tokens`."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    """Input tokens newly put into the provider's cache, which may cost more; part of `input_tokens`."""
    cache_write_1h_tokens: int = 0
    """Of those, the ones kept for an hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherReply:
    """One usable reply of a teacher model."""

    text: str
    stop: Literal["stop", "length", "refusal"]
    usage: Usage
    cost_usd: float | None
    """What this call cost now: 0 when it came from the record; None = price unknown."""
    recorded_cost_usd: float | None
    """What the reply cost when it was bought."""
    saved_usd: float | None
    """What it would have cost more, when it was bought, without the provider's prompt cache; None = price unknown."""
    cached: bool
