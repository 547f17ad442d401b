"""What the store knows of batches: which are out at a provider, and what came home. No provider, no network."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from sqlite_utils import Database

from bbdistill.client.budget import Budget
from bbdistill.client.call import Call, Fault, Reply
from bbdistill.client.faults import examine
from bbdistill.client.keys import Request, to_json
from bbdistill.client.records import PROCESSING, row_of
from bbdistill.client.retry import Attempt
from bbdistill.client.rows import CallRow
from bbdistill.client.store import Store

TERMS = {"processing": "batch"}
"""What the price table calls a batch."""
_ROUNDS = 2
"""Batches in which a request may fail before it is left to be asked live."""
_COLUMNS = ("id", "run", "provider", "purpose", "remote_id", "reserved_usd", "created_at", "submitted_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch under way. Without a `remote_id` nobody knows yet whether the provider has it. Times are UTC."""

    id: str
    """Ours; it leads every `custom_id`, and the provider is told it where there is a place for it."""
    run: str
    """Who submitted it."""
    provider: str
    purpose: str
    reserved_usd: float
    """The worst case; 0 where no cap counts it."""
    created_at: datetime
    size: int
    """Requests."""
    remote_id: str | None = None
    submitted_at: datetime | None = None

    def custom_id(self, item: int) -> str:
        return f"{self.id}-{item}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One request of a batch: its key, and what the key is made of."""

    key: str
    request: Request
    tags: Mapping[str, str]
    attempt: int = 1
    """Which batch this is for the request."""

    def call(self, like: Call) -> Call:
        """The call that it stands for, sent as `like` is."""
        body = json.dumps(self.request["body"]).encode()
        return replace(like, body=body, sample=self.request["sample"], tags=self.tags)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of an item, as it is written down: the attempt, and the call's row where there is a usable reply."""

    item: Item
    attempt: Attempt
    row: CallRow | None
    state: Literal["answered", "failed", "refused"]
    """`failed` is worth another batch; `refused` would be so again, and is left to be asked live."""

    @property
    def usd(self) -> float | None:
        """What it cost; the worst case where nobody knows; None where a reply has not even that."""
        if self.row is None:
            return self.attempt.cost_usd or 0.0
        return self.attempt.cost_usd if self.row.cost_usd is None else self.row.cost_usd


def outcome_of(item: Item, like: Call, reply: Reply, budget: Budget) -> Outcome:
    """A reply from a batch, examined and billed as if asked by itself, at the price of a batch."""
    call = item.call(like)
    try:
        good = examine(call, replace(reply, headers={**reply.headers, PROCESSING: TERMS["processing"]}))
    except Fault as fault:
        unknown = None if fault.free else budget.at_most(call)
        state = "failed" if fault.retryable else "refused"
        return Outcome(item=item, attempt=_attempt(item, reply, fault.reason, unknown), row=None, state=state)
    assert good.reading is not None
    reading = replace(good.reading, terms={**good.reading.terms, **TERMS})
    billed = budget.bill(call, replace(good, reading=reading))
    row = row_of(call, item.request, item.key, billed)
    return Outcome(item=item, attempt=_attempt(item, reply, None, billed.unknown_usd), row=row, state="answered")


def _attempt(item: Item, reply: Reply, fault: str | None, unknown_usd: float | None) -> Attempt:
    return Attempt(
        number=item.attempt,
        status=reply.status,
        fault=fault,
        latency_s=reply.latency_s,
        retry_after_s=None,
        purpose=item.tags.get("purpose"),
        cost_usd=unknown_usd,
    )


class BatchStore(Store):
    """The store, and the batches in it. May be opened beside a `Store` of the same file."""

    def due(self, keys: Iterable[str], run: str) -> list[str]:
        """Of these requests, those to ask in a batch: not answered, not out, and not failed in two batches before."""
        rows = self._rows(
            """SELECT value FROM json_each(:keys) WHERE NOT EXISTS (
                SELECT 1 FROM calls WHERE key = value AND (kind = 'ok' OR kind != 'fault' AND EXISTS (
                    SELECT 1 FROM run_calls WHERE run = :run AND call_id = calls.id
                ))
            ) AND NOT EXISTS (SELECT 1 FROM batch_items WHERE key = value AND state IN ('out', 'refused'))
            AND (SELECT count(*) FROM batch_items WHERE key = value AND state = 'failed') < :rounds""",
            keys=json.dumps(list(keys)),
            run=run,
            rounds=_ROUNDS,
        )
        return [row[0] for row in rows]

    def out(self, keys: Iterable[str]) -> list[Batch]:
        """The batches under way that hold any of these requests, whoever submitted them; the oldest first."""
        return self._batches(
            """id IN (SELECT batch FROM batch_items WHERE state = 'out'
                AND key IN (SELECT value FROM json_each(:keys)))""",
            keys=json.dumps(list(keys)),
        )

    def under_way(self, batch: str) -> Batch | None:
        """The batch as it stands now; None if it is no longer under way."""
        found = self._batches("id = :batch AND state IN ('intended', 'submitted')", batch=batch)
        return found[0] if found else None

    def items(self, batch: str) -> list[Item]:
        """The requests of a batch under way, by their number in it; none if it is no longer."""
        rows = self._rows(
            """SELECT key, request, prompt_id, template, batches.purpose, (
                SELECT 1 + count(*) FROM batch_items AS before WHERE before.key = items.key AND before.state = 'failed'
            ) FROM batch_items AS items JOIN batches ON batches.id = batch
            WHERE batch = :batch AND items.state = 'out' ORDER BY item""",
            batch=batch,
        )
        return [
            Item(
                key=key,
                request=json.loads(request),
                tags={"prompt_id": prompt, "template": template, "purpose": purpose},
                attempt=attempt,
            )
            for key, request, prompt, template, purpose, attempt in rows
        ]

    def remote_ids(self) -> set[str]:
        """The provider's names of all batches that are accounted for."""
        return {row[0] for row in self._rows("SELECT remote_id FROM batches WHERE remote_id IS NOT NULL")}

    def intend(self, batch: Batch, items: Sequence[Item]) -> bool:
        """Writes down what is about to be submitted; False if another process has just sent out some of it."""
        with self._writing() as database:
            if self.out(item.key for item in items):
                return False
            database.conn.execute(
                """INSERT INTO batches (id, run, provider, purpose, state, reserved_usd, created_at)
                VALUES (?, ?, ?, ?, 'intended', ?, ?)""",
                (batch.id, batch.run, batch.provider, batch.purpose, batch.reserved_usd, batch.created_at.isoformat()),
            )
            database.conn.executemany(
                """INSERT INTO batch_items (batch, item, key, state, request, prompt_id, template)
                VALUES (?, ?, ?, 'out', ?, ?, ?)""",
                (
                    (batch.id, n, i.key, to_json(i.request), i.tags.get("prompt_id", ""), i.tags.get("template", ""))
                    for n, i in enumerate(items)
                ),
            )
        return True

    def submitted(self, batch: str, remote_id: str) -> None:
        """Notes that the provider has it."""
        with self._writing() as database:
            database.conn.execute(
                """UPDATE batches SET state = 'submitted', remote_id = ?, submitted_at = ?
                WHERE id = ? AND state = 'intended'""",
                (remote_id, datetime.now(UTC).isoformat(), batch),
            )

    def give_up(self, batch: str, state: Literal["refused", "lost"]) -> None:
        """Ends a batch that the provider refused or never got; its requests are free to be asked again."""
        with self._writing() as database:
            if _end(database, batch, state):
                database.conn.execute(
                    "UPDATE batch_items SET state = 'lost', request = NULL WHERE batch = ? AND state = 'out'", (batch,)
                )

    def collect(self, batch: str, outcomes: Sequence[Outcome], run: str) -> bool:
        """Writes everything that came home, or nothing; False if another process has done so before."""
        with self._writing() as database:
            if not _end(database, batch, "collected"):
                return False
            for item, outcome in enumerate(outcomes):
                self._add_attempt(database, outcome.item.key, run, outcome.attempt)
                if outcome.row is not None:
                    self._add_call(database, outcome.row, run)
                database.conn.execute(
                    "UPDATE batch_items SET state = ?, request = NULL WHERE batch = ? AND item = ?",
                    (outcome.state, batch, item),
                )
        return True

    def _batches(self, where: str, **values: str) -> list[Batch]:
        size = "(SELECT count(*) FROM batch_items WHERE batch = batches.id)"
        rows = self._rows(
            f"SELECT {', '.join(_COLUMNS)}, {size} FROM batches WHERE {where} ORDER BY created_at, id", **values
        )
        found = [dict(zip((*_COLUMNS, "size"), row, strict=True)) for row in rows]
        for row in found:
            for name in ("created_at", "submitted_at"):
                row[name] = row[name] and datetime.fromisoformat(row[name])
        return [Batch(**row) for row in found]


def _end(database: Database, batch: str, state: str) -> bool:
    """Whether the batch was still under way."""
    done = database.conn.execute(
        "UPDATE batches SET state = ?, ended_at = ? WHERE id = ? AND state IN ('intended', 'submitted')",
        (state, datetime.now(UTC).isoformat(), batch),
    )
    return done.rowcount == 1
