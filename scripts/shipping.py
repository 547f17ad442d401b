"""What a recording that travels with the package holds: one run, and nothing of the machine it was made on."""

import re
import sqlite3
from pathlib import Path

from bbdistill.client.store import Store
from bbdistill.recording import export_recording


def ship(store: Path, shipped: Path, *, run: str, licence: str) -> None:
    """Writes what `run` used to `shipped`, without the directories of this machine."""
    shipped.unlink(missing_ok=True)
    export_recording(store, shipped, run=run)
    copy = sqlite3.connect(shipped)
    with copy:
        copy.execute("UPDATE runs SET config = '{}'")
        for number, reply, fault in copy.execute("SELECT id, reply, fault FROM calls WHERE kind = 'fault'").fetchall():
            copy.execute("UPDATE calls SET reply = ?, fault = ? WHERE id = ?", [_bare(reply), _bare(fault), number])
        copy.execute("INSERT OR REPLACE INTO facts (name, value) VALUES ('licence', ?)", [licence])
    copy.execute("VACUUM")
    copy.close()
    print(f"{shipped}: {shipped.stat().st_size / 1e6:.1f} MB")


def adopt(store: Path, asked: str, run: str) -> None:
    """Notes what the run `asked` used as used by `run`, too: only one run is shipped."""
    opened = Store(store)
    known = {call.id for call in opened.calls(run)}
    for call in opened.calls(asked):
        if call.id not in known:
            opened.use(run, call.id)
    opened.close()


def _bare(text: str | None) -> str | None:
    """Without source files and lines."""
    return text and re.sub(r'(\\n|\s)*File \\?"[^"]*"[^\n]*?(?=\\n|\n|$)', "", text)
