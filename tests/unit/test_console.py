"""What a person sees of progress, off a terminal."""

import pytest

from bbdistill.console import watching
from bbdistill.metrics import Progress


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({}, "(9 calls, 2 from the record, 0 on the wire)"),
        ({"in_flight": 4, "limit": 32}, "(9 calls, 2 from the record, 4 on the wire, at most 32 at once)"),
        ({"spent_usd": 0.25}, "0 on the wire, $0.2500)"),
        ({"spent_usd": None}, "0 on the wire, price unknown)"),
        ({"retrying": 3, "trouble": "HTTP 503: busy"}, "0 on the wire, 3 retrying: HTTP 503: busy)"),
    ],
)
def test_a_line_of_progress(more: dict[str, object], says: str, capsys: pytest.CaptureFixture[str]):
    with watching() as on_event:
        on_event(Progress(what="asking", done=5, total=9, calls=9, cached=2, **more))  # pyright: ignore
    assert capsys.readouterr().err.startswith("asking: 5/9  (")
    with watching() as on_event:
        on_event(Progress(what="asking", done=5, total=9, calls=9, cached=2, **more))  # pyright: ignore
    assert capsys.readouterr().err.endswith(f"{says}\n")
