"""What training data should not be: the same twice or almost, a refusal, or what the student is tested on. Pure."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import Any, cast

from bbdistill.types import Prompt

ALIKE = 0.8
"""Share of common shingles (Jaccard) from which on two prompts say almost the same."""
SHINGLE = 3
"""Words in a shingle: order counts, and prompts of one template that differ in their facts stay apart."""

_REFUSAL = re.compile(
    r"\bas an ai (?:language )?(?:model|assistant)\b"
    r"|\bi(?: can['\u2019]?t| cannot| can not| won['\u2019]?t|(?: am|['\u2019]m) (?:unable|not able) to) (?:\w+ly )?"
    r"(?:(?:help|assist) (?:you )?with (?:that|this)|comply with|fulfill? (?:that|this|your) request|do that\b)",
    re.IGNORECASE,
)
BEGINNING = 120
"""Characters in which a refusal declares itself."""

Shingles = frozenset[tuple[str, ...]]


def distinct(prompts: Sequence[Prompt], demonstrated: Collection[str]) -> tuple[Prompt, ...]:
    """Of prompts with the same conversation one: the first that came with an answer, else with a reference."""
    best: dict[str, Prompt] = {}
    for prompt in prompts:
        known = best.setdefault(conversation(prompt), prompt)
        if _known(prompt, demonstrated) > _known(known, demonstrated):
            best[conversation(prompt)] = prompt
    kept = {prompt.id for prompt in best.values()}
    return tuple(prompt for prompt in prompts if prompt.id in kept)


def without_near(prompts: Sequence[Prompt]) -> tuple[Prompt, ...]:
    """Without the prompts that say almost the same as an earlier one that is kept.

    A reference of its own speaks for a prompt: two forms that differ in one field are two examples.
    """
    left_out: set[int] = set()
    for earlier, later in near([shingles(prompt) for prompt in prompts]):
        own = prompts[later].reference
        if earlier not in left_out and (own is None or own == prompts[earlier].reference):
            left_out.add(later)
    return tuple(prompt for index, prompt in enumerate(prompts) if index not in left_out)


def near_within(prompts: Sequence[Prompt]) -> int:
    """How many prompts say almost the same as an earlier one."""
    return len({later for _, later in near([shingles(prompt) for prompt in prompts])})


def near_between(train: Sequence[Prompt], test: Sequence[Prompt]) -> int:
    """How many of `test` say almost the same as one of `train`, those that are the same included."""
    pairs = near([shingles(prompt) for prompt in (*train, *test)])
    return len({later for earlier, later in pairs if earlier < len(train) <= later})


def near(sets: Sequence[Shingles]) -> Iterator[tuple[int, int]]:
    """(earlier, later) of all pairs that share at least `ALIKE` of what they have together, in order of the later.

    Two such sets must share one of their few rarest shingles, so only those are looked up (prefix filtering,
    Bayardo et al., WWW 2007): about linear in the number of sets, and exact.
    """
    frequency = Counter(shingle for each in sets for shingle in each)
    index: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for later, each in enumerate(sets):
        rarest = sorted(each, key=lambda shingle: (frequency[shingle], shingle))
        prefix = rarest[: len(each) - math.ceil(ALIKE * len(each)) + 1]
        for earlier in sorted({place for shingle in prefix for place in index[shingle]}):
            other = sets[earlier]
            alike_in_size = ALIKE * max(len(each), len(other)) <= min(len(each), len(other))
            if alike_in_size and len(each & other) >= ALIKE * len(each | other):
                yield earlier, later
        for shingle in prefix:
            index[shingle].append(later)


def shingles(prompt: Prompt) -> Shingles:
    """Of what the conversation says apart from its system text, which all prompts of a task share."""
    said = " ".join(_text(message.get("content")) for message in prompt.messages if message["role"] != "system")
    words = re.findall(r"\w+", said.casefold())
    return frozenset(tuple(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1)))


def is_refusal(text: str) -> bool:
    """Whether an answer begins by declining to give one, in the words of assistants: seldom wrong, and not complete."""
    return _REFUSAL.search(text[:BEGINNING]) is not None


def conversation(prompt: Prompt) -> str:
    """Equal for equal conversations."""
    return repr([sorted(message.items()) for message in prompt.messages])


def _known(prompt: Prompt, demonstrated: Collection[str]) -> tuple[bool, bool]:
    return prompt.id in demonstrated, prompt.reference is not None


def _text(content: Any) -> str:
    if isinstance(content, list):
        parts = [cast(dict[str, Any], part) for part in cast(list[Any], content) if isinstance(part, dict)]
        return " ".join(str(part.get("text", "")) for part in parts)
    return str(content or "")
