"""Whether a stored call is what it claims to be."""

import json
from collections.abc import Iterator

from bbdistill.client import keys, wire
from bbdistill.client.call import Fault
from bbdistill.client.rows import CallRow


def problems(row: CallRow) -> Iterator[str]:
    """A sentence for everything about `row` that does not fit."""
    name = f"call {row.id} ({row.key[:12]})"
    try:
        request = json.loads(row.request)
    except ValueError:
        yield f"{name}: its request is not JSON"
        return
    derived = keys.key(request)
    if derived != row.key:
        yield f"{name}: its request has the key {derived[:12]}; the request or the key was changed"
    if row.kind == "fault":
        return
    try:
        kind = wire.read(row.path, (row.reply or "").encode(), row.content_type or "").kind
    except (Fault, ValueError) as fault:
        yield f"{name}: its reply cannot be read: {fault}"
        return
    if kind != row.kind:
        yield f"{name}: its reply is `{kind}` and marked `{row.kind}`"
