"""Where the tokens of several rows stand when what they begin with is laid out once. Knows no model.

All rows of a forward form one sequence: what all prompts begin with, then the rest of each prompt, then what was said
after it. A segment sees the segments on its path and itself. Its positions go on where its path ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, takewhile
from typing import NamedTuple

import torch
from torch import Tensor

HIDDEN = -1e30
"""Added to the score of a key that is not to be seen. Finite: a row of -inf would become nan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One sequence: the tokens given and the tokens said."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        return self.prompt + self.completion


class Span(NamedTuple):
    """Where a row stands in the tree."""

    prompt_end: int
    """The last token of its prompt."""
    start: int
    """The first token of its completion."""
    length: int
    """Of its completion, in tokens."""

    @property
    def end(self) -> int:
        return self.start + self.length - 1 if self.length else self.prompt_end


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Segments of one depth, computed together: P parents, M segments each at most, L tokens each at most."""

    tokens: slice
    """Where they stand; stages follow each other without gaps."""
    shape: tuple[int, int, int]
    """P, M, L."""
    places: Tensor
    """(n,) of each token, its place in the flattened (P, M, L)."""
    path: tuple[Tensor, ...]
    """(C, S) for each ancestor depth: the tokens of C segments, which serve P / C parents each."""
    mask: Tensor
    """(P, 1, L, sum of S + L), added to the scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """N tokens of B rows."""

    ids: Tensor
    """(1, N)."""
    positions: Tensor
    """(1, N)."""
    owners: Tensor
    """(N, 3) of each token, the segments that it sees, by number: its own first, -1 where there are fewer."""
    stages: tuple[Stage, ...]
    spans: tuple[Span, ...]
    """One per row."""

    def sees(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether token `query` attends to token `key`; indices that broadcast. What is on a path stands before it."""
        segment, own = self.owners[key, 0], self.owners[query]
        return (query >= key) & ((segment == own[..., 0]) | (segment == own[..., 1]) | (segment == own[..., 2]))

    def dense(self) -> Tensor:
        """(1, 1, N, N), True where a query (row) sees a key (column)."""
        tokens = torch.arange(self.ids.shape[1], device=self.ids.device)
        return self.sees(tokens[:, None], tokens[None, :])[None, None]


class _Segment(NamedTuple):
    ids: tuple[int, ...]
    parent: int
    """Its place in the depth above."""


def lay_out(rows: Sequence[Row], device: torch.device) -> Tree:
    """The tree of `rows`. A prompt that only one row has is one segment with what that row says."""
    groups, shared = _groups(rows)
    depths: list[list[_Segment]] = [[], [], []]
    for parent, (prompt, indices) in enumerate(groups.items()):
        alone = rows[indices[0]].completion if len(indices) == 1 else ()
        depths[1].append(_Segment(prompt[shared:] + alone, 0))
        if len(indices) > 1:
            depths[2] += [_Segment(rows[index].completion, parent) for index in indices if rows[index].completion]
    if shared:
        depths[0].append(_Segment(next(iter(groups))[:shared], 0))
    starts = _starts(depths)
    return Tree(
        ids=torch.tensor([[id for depth in depths for segment in depth for id in segment.ids]], device=device),
        positions=torch.tensor([_positions(depths)], device=device),
        owners=torch.tensor(_owners(depths), device=device),
        stages=tuple(_stage(depths, starts, depth, device) for depth in range(3) if depths[depth]),
        spans=_spans(rows, groups, shared, starts),
    )


def tree_tokens(rows: Sequence[Row]) -> int:
    """How many tokens the tree of `rows` has."""
    groups, shared = _groups(rows)
    return shared + sum(len(prompt) - shared for prompt in groups) + sum(len(row.completion) for row in rows)


def _groups(rows: Sequence[Row]) -> tuple[dict[tuple[int, ...], list[int]], int]:
    """The rows of each prompt, and how many tokens all prompts begin with, if there are several prompts."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(row.prompt, []).append(index)
    if len(groups) == 1:
        return groups, 0
    low, high = min(groups), max(groups)  # all others lie between
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(low, high, strict=False)))
    return groups, min(alike, min(map(len, groups)) - 1)  # the last token of each is its own: it predicts


def _starts(depths: Sequence[Sequence[_Segment]]) -> list[list[int]]:
    """Of each segment, where its first token stands."""
    starts: list[list[int]] = []
    at = 0
    for depth in depths:
        starts.append([])
        for segment in depth:
            starts[-1].append(at)
            at += len(segment.ids)
    return starts


def _positions(depths: Sequence[Sequence[_Segment]]) -> list[int]:
    positions: list[int] = []
    ends: list[int] = [0]
    for depth in depths:
        if depth:
            first = [ends[segment.parent] for segment in depth]
            positions += chain.from_iterable(range(f, f + len(s.ids)) for f, s in zip(first, depth, strict=True))
            ends = [f + len(s.ids) for f, s in zip(first, depth, strict=True)]
    return positions


def _owners(depths: Sequence[Sequence[_Segment]]) -> list[list[int]]:
    owners: list[list[int]] = []
    above: list[list[int]] = [[]]
    number = 0
    for depth in depths:
        if depth:
            paths = [[number + index, *above[segment.parent]] for index, segment in enumerate(depth)]
            owners += [[*path, -1, -1][:3] for path, segment in zip(paths, depth, strict=True) for _ in segment.ids]
            above, number = paths, number + len(depth)
    return owners


def _stage(
    depths: Sequence[Sequence[_Segment]], starts: Sequence[Sequence[int]], depth: int, device: torch.device
) -> Stage:
    segments = depths[depth]
    parents = sorted({segment.parent for segment in segments})
    children = [[segment for segment in segments if segment.parent == parent] for parent in parents]
    many, longest = max(map(len, children)), max(len(segment.ids) for segment in segments)
    places = [
        (p * many + m) * longest + i
        for p, family in enumerate(children)
        for m, segment in enumerate(family)
        for i in range(len(segment.ids))
    ]
    # The segments of one depth stand in the order of their parents, so that places and tokens run alike.
    wanted = [([0], depths[0], starts[0]), (parents, depths[1], starts[1])][:depth]
    path = [_padded(which, row, first) for which, row, first in wanted if row]
    seen = [lengths for _, lengths in path]
    first = starts[depth][0]
    return Stage(
        tokens=slice(first, first + len(places)),
        shape=(len(parents), many, longest),
        places=torch.tensor(places, device=device),
        path=tuple(index.to(device) for index, _ in path),
        mask=_mask(len(parents), longest, seen).to(device),
    )


def _padded(which: Sequence[int], segments: Sequence[_Segment], starts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(C, S) the tokens of some segments, padded with token 0, and (C,) how many are real."""
    lengths = [len(segments[index].ids) for index in which]
    tokens = [
        [*range(starts[index], starts[index] + n), *[0] * (max(lengths) - n)]
        for index, n in zip(which, lengths, strict=True)
    ]
    return torch.tensor(tokens), torch.tensor(lengths)


def _mask(parents: int, longest: int, path: Sequence[Tensor]) -> Tensor:
    """(P, 1, L, sum of S + L)."""
    own = torch.ones(longest, longest, dtype=torch.bool).tril()
    parts = [
        torch.arange(int(lengths.max())) < lengths[:, None]  # (C, S)
        for lengths in path
    ]
    seen = [part[:, None].expand(-1, longest, -1).expand(parents, -1, -1) for part in parts]
    seen.append(own.expand(parents, -1, -1))
    return torch.where(torch.cat(seen, -1), 0.0, HIDDEN).unsqueeze(1)


def _spans(
    rows: Sequence[Row], groups: dict[tuple[int, ...], list[int]], shared: int, starts: Sequence[Sequence[int]]
) -> tuple[Span, ...]:
    spans: dict[int, Span] = {}
    said = iter(starts[2])
    for (prompt, indices), start in zip(groups.items(), starts[1], strict=True):
        end = start + len(prompt) - shared - 1
        for index in indices:
            length = len(rows[index].completion)
            first = end + 1 if len(indices) == 1 or not length else next(said)
            spans[index] = Span(end, first, length)
    return tuple(spans[index] for index in range(len(rows)))
