"""The tables of the store, as numbered migrations: applied once each, in order, and never edited after a release."""

from sqlite_utils import Database, Migrations

migrations = Migrations("bbdistill")


@migrations()
def m001_initial(db: Database) -> None:
    for statement in (*_TABLES, *_INDEXES, *_VIEWS):
        db.conn.execute(statement)


@migrations()
def m002_attempt_cost(db: Database) -> None:
    """What an attempt of unknown outcome may have cost, so that a resumed run counts it."""
    db.conn.execute("ALTER TABLE attempts ADD COLUMN purpose TEXT")
    db.conn.execute("ALTER TABLE attempts ADD COLUMN cost_usd REAL")


@migrations()
def m004_batches(db: Database) -> None:
    """What is asked through a provider's batch API, so that it survives a restart and is never submitted twice."""
    for statement in _BATCHES:
        db.conn.execute(statement)


@migrations()
def m005_spend_of_attempts(db: Database) -> None:
    """Attempts that may have been billed for nothing are part of what a run has spent."""
    db.conn.execute("DROP VIEW v_spend")
    db.conn.execute(_SPEND)


# `usd` is what the run paid: the calls it bought, and with them `uncertain_usd`, the worst case of attempts that nobody
# knows the cost of. `unpriced` counts the bought calls of which not even that is known; they are in no sum.
_SPEND = """CREATE VIEW v_spend AS
    SELECT run, purpose, sum(calls) AS calls, sum(cached) AS cached, sum(input_tokens) AS input_tokens,
        sum(output_tokens) AS output_tokens, total(usd) AS usd, total(recorded_usd) AS recorded_usd,
        sum(unpriced) AS unpriced, total(uncertain_usd) AS uncertain_usd
    FROM (
        SELECT run, coalesce(calls.purpose, '') AS purpose, 1 AS calls, cached,
            coalesce(input_tokens, 0) AS input_tokens, coalesce(output_tokens, 0) AS output_tokens,
            CASE WHEN cached THEN 0 ELSE cost_usd END AS usd, cost_usd AS recorded_usd,
            NOT cached AND cost_usd IS NULL AND NOT EXISTS (
                SELECT 1 FROM attempts WHERE key = calls.key AND run = run_calls.run AND attempts.cost_usd IS NOT NULL
            ) AS unpriced,
            0 AS uncertain_usd
        FROM run_calls JOIN calls ON calls.id = run_calls.call_id
        UNION ALL
        SELECT run, coalesce(purpose, ''), 0, 0, 0, 0, cost_usd, 0, 0, cost_usd
        FROM attempts WHERE run IS NOT NULL AND cost_usd > 0
    ) GROUP BY run, purpose"""

_BATCHES = (
    """CREATE TABLE batches (
        id TEXT PRIMARY KEY,
        run TEXT NOT NULL REFERENCES runs (id),
        provider TEXT NOT NULL,
        purpose TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('intended', 'submitted', 'collected', 'refused', 'lost')),
        remote_id TEXT UNIQUE,
        reserved_usd REAL NOT NULL,
        created_at TEXT NOT NULL,
        submitted_at TEXT,
        ended_at TEXT
    ) STRICT""",
    # `request` is empty once the item is no longer out: an answered one stands in `calls`.
    """CREATE TABLE batch_items (
        batch TEXT NOT NULL REFERENCES batches (id),
        item INTEGER NOT NULL,
        key TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('out', 'answered', 'failed', 'refused', 'lost')),
        request TEXT,
        prompt_id TEXT,
        template TEXT,
        PRIMARY KEY (batch, item)
    ) STRICT""",
    "CREATE UNIQUE INDEX batch_items_out ON batch_items (key) WHERE state = 'out'",
    "CREATE INDEX batch_items_by_key ON batch_items (key)",
)

_TABLES = (
    """CREATE TABLE calls (
        id INTEGER PRIMARY KEY,
        key TEXT NOT NULL,
        version INTEGER NOT NULL,
        sample INTEGER NOT NULL,
        teacher TEXT NOT NULL,
        path TEXT NOT NULL,
        request TEXT NOT NULL,
        status INTEGER,
        content_type TEXT,
        headers TEXT NOT NULL,
        reply TEXT,
        kind TEXT NOT NULL CHECK (kind IN ('ok', 'refusal', 'length', 'fault')),
        fault TEXT,
        model TEXT,
        input_tokens INTEGER,
        output_tokens INTEGER,
        cached_tokens INTEGER,
        cost_usd REAL,
        purpose TEXT,
        prompt_id TEXT,
        template TEXT,
        latency_s REAL,
        created_at TEXT NOT NULL,
        UNIQUE (key, version)
    ) STRICT""",
    """CREATE TABLE runs (
        id TEXT PRIMARY KEY,
        started_at TEXT NOT NULL,
        config TEXT NOT NULL,
        finished_at TEXT,
        note TEXT
    ) STRICT""",
    """CREATE TABLE run_calls (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        run TEXT NOT NULL REFERENCES runs (id),
        call_id INTEGER NOT NULL REFERENCES calls (id),
        cached INTEGER NOT NULL
    ) STRICT""",
    """CREATE TABLE attempts (
        id INTEGER PRIMARY KEY,
        key TEXT NOT NULL,
        run TEXT,
        number INTEGER NOT NULL,
        status INTEGER,
        fault TEXT,
        latency_s REAL,
        retry_after_s REAL,
        created_at TEXT NOT NULL
    ) STRICT""",
    """CREATE TABLE plans (
        run TEXT NOT NULL,
        step INTEGER NOT NULL,
        name TEXT NOT NULL,
        plan TEXT NOT NULL,
        PRIMARY KEY (run, step, name)
    ) STRICT""",
    """CREATE TABLE rollouts (
        run TEXT NOT NULL,
        step INTEGER NOT NULL,
        prompt_id TEXT NOT NULL,
        sample INTEGER NOT NULL,
        completion TEXT NOT NULL,
        token_ids TEXT NOT NULL,
        logprobs TEXT NOT NULL,
        policy_version INTEGER NOT NULL,
        stop_reason TEXT NOT NULL,
        PRIMARY KEY (run, step, prompt_id, sample)
    ) STRICT""",
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
)

_INDEXES = (
    "CREATE INDEX run_calls_by_run ON run_calls (run, call_id)",
    "CREATE INDEX run_calls_by_call ON run_calls (call_id)",
    "CREATE INDEX attempts_by_key ON attempts (key)",
)

_VIEWS = (
    """CREATE VIEW v_calls AS
        SELECT id, created_at, purpose, prompt_id, sample, kind, teacher, model, input_tokens, output_tokens, cost_usd,
            latency_s, template, fault, json_extract(request, '$.body.messages') AS messages, reply, key, version
        FROM calls""",
    # Sums are over calls of known price; `unpriced` counts the others.
    """CREATE VIEW v_spend AS
        SELECT run, coalesce(purpose, '') AS purpose, count(*) AS calls, sum(cached) AS cached,
            coalesce(sum(input_tokens), 0) AS input_tokens, coalesce(sum(output_tokens), 0) AS output_tokens,
            total(CASE WHEN cached THEN 0 ELSE cost_usd END) AS usd, total(cost_usd) AS recorded_usd,
            sum(cost_usd IS NULL) AS unpriced
        FROM run_calls JOIN calls ON calls.id = run_calls.call_id
        GROUP BY run, coalesce(purpose, '')""",
    # One row per order asked: `winner` is what the judge said of A and B as they stood in that request.
    """CREATE VIEW v_preferences AS
        SELECT id, prompt_id, purpose, model,
            CASE WHEN json_valid(answer) THEN json_extract(answer, '$.winner') END AS winner, answer, created_at
        FROM (
            SELECT *, CASE WHEN json_valid(reply) THEN coalesce(
                json_extract(reply, '$.choices[0].message.content'),
                json_extract(reply, '$.content[0].text')
            ) END AS answer
            FROM calls WHERE kind = 'ok' AND template LIKE 'compare%'
        )""",
)
