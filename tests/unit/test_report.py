"""The report's pages: what they hold, and that nothing a model says becomes markup."""

import re
from typing import Any

import matplotlib as mpl
import pytest

from bbdistill.monitors import Monitors
from bbdistill.plots import plots
from bbdistill.report import MODELS, per_point, render, render_page

HOSTILE = "</pre><script>alert(1)</script> ![x](http://evil.test/x.png) [y](javascript:alert(2)) | a"
NOTHING = {"valid": None, "score": None, "low": None, "high": None, "n": 0, "nll": None}


def purpose(usd: float, *, unpriced: int = 0) -> dict[str, Any]:
    counts = dict.fromkeys(("calls", "cached", "input_tokens", "cached_tokens", "output_tokens", "abstained"), 1)
    spent = {"cost_usd": usd, "recorded_cost_usd": usd, "unpriced": unpriced, "recorded_unpriced": unpriced}
    return {**counts, **spent, "saved_usd": 0.0}


def report(*, student: float | None = 0.75, unpriced: int = 0) -> dict[str, Any]:
    lessons = dict.fromkeys(("drafted", "candidates", "set_aside"), 0)
    run = {"id": "r", "recipe": "gad", "replayed": None, "student": "s", "teacher": "t", "judge": "t"}
    scored = {"base": 0.25, "sft": 0.5, "student": student, "teacher": 1.0}
    counted = ("steps", "sft_step", "best_step", "seconds", "tokens", "preferences", "corrections")
    data = ("train", "validation", "test", "demonstrations", "demonstrations_used", "duplicates", "near_left_out")
    model = {"calls": 1, "abstain_rate": 0.0, "cost_usd": 0.1, "comparisons": 0, "order_flip_rate": None}
    judged = {"verifier_agreement": None, "verifier_comparisons": 0, "terms": HOSTILE}
    return {
        "run": {**run, "versions": {"python": "3"}},
        "eval": {
            **{name: NOTHING | {"score": score} for name, score in scored.items()},
            "student_minus_sft": {"score": 0.25, "low": 0.1, "high": 0.4},
        },
        "teacher": {
            **{"calls": 2, "cached": 0, "cost_usd": 0.6, "recorded_cost_usd": 0.6, "abstain_rate": 0.0},
            **{"abstain_reasons": {HOSTILE: 1}, "order_flip_rate": None, "comparisons": 0},
            "by_purpose": {"demonstrations": purpose(0.1, unpriced=unpriced), "evaluation": purpose(0.5)},
            "by_model": {"t": model | judged},
        },
        "train": {**dict.fromkeys(counted, 1), "corrections_accepted": 1, "validation_score": 0.5},
        "lessons": lessons,
        "alarms": [{"step": 2, "monitor": "kl", "level": "warn", "text": HOSTILE}],
        "data": {
            **dict.fromkeys(data, 1),
            **{"test_near_train": 0, "test_seen_in_train": 0, "demonstrations_left_out": {}},
        },
        "samples": [
            {
                "id": HOSTILE,
                "prompt": HOSTILE,
                "answers": dict.fromkeys(MODELS, HOSTILE) | {"teacher": None},
                "scores": dict.fromkeys(MODELS),
            }
        ],
    }


def test_what_is_said_never_becomes_markup():
    page = render_page(report(), "<svg></svg>")
    tags = set(re.findall(r"<\s*/?\s*([a-z0-9]+)", page))
    assert not tags & {"script", "img", "a", "iframe", "link"}
    assert "<svg></svg>" in page
    assert page.count("&lt;script&gt;alert(1)") == 8  # terms, a reason, an alarm, the id, the prompt and three answers
    assert "&lt;/pre&gt;" in page.split("<h3>")[1].split("</h3>")[0]
    assert page.count("(no answer)") == 1


def test_both_pages_say_the_same():
    text, page = render(report()), render_page(report(), "")
    for words in ("Student minus SFT-only", "$0.0020 for each point of a hundred", "What it cost", "python 3"):
        assert words in text
        assert words in page
    assert "step by step" not in page  # there is nothing to plot


def test_dollars_per_point():
    assert per_point(report()) == pytest.approx(0.1 / 50)
    assert per_point(report(student=0.2)) is None
    assert per_point(report(student=None)) is None
    assert per_point(report(unpriced=1)) is None


def rows(count: int = 8) -> list[dict[str, Any]]:
    kl = [{"step": step, "policy/kl": 0.1 * step, "policy/staleness": 0.0} for step in range(1, count + 1)]
    return [{"step": 0, "sft/loss": 0.5}, *kl, {"step": count + 1, "policy/kl": None}]


def test_plots_show_what_is_watched_and_are_the_same_each_time():
    monitors = Monitors()
    for row in rows()[1:9]:
        monitors.look(row["step"], {"policy/kl": row["policy/kl"]})
    alarms = [{"step": 8, "monitor": "kl", "level": "warn", "text": ""}]
    drawn = plots(rows(), [(0, 0.5), (8, 0.75)], monitors.memory, alarms)
    assert drawn.startswith("<svg")
    for title in ("validation score", "sft/loss", "policy/kl"):
        assert f">{title}</text>" in drawn
    assert "policy/staleness" not in drawn
    assert drawn == plots(rows(), [(0, 0.5), (8, 0.75)], monitors.memory, alarms)
    with mpl.rc_context({"text.usetex": True, "axes.facecolor": "black"}):
        assert drawn == plots(rows(), [(0, 0.5), (8, 0.75)], monitors.memory, alarms)
    assert "#ff7f0e" in drawn  # orange: the warning
    assert "#ff7f0e" not in plots(rows(), [], {}, [])  # no start, so no level that depends on it
    assert plots([{"step": 1, "stage": "gather-1"}], [], {}, []) == ""
