"""The pages people read: `report.json` (keys documented here), and `report.md` and `report.html` made from it.

No torch, no network.

run                     id, recipe, replayed, student, teacher, judge (the teacher unless there is another), versions
eval.{base,sft,student,teacher}   valid, score, low, high, n, nll   (None = could not be measured)
eval.student_minus_sft  score, low, high: paired over the same prompts
eval.outside            base, student (shares of the questions outside the task that they answer rightly), gain, low,
                        high (the student's less the base's, paired), n
eval.win_rates.{base,sft,teacher}   of the student against that model, by the judge; None where nobody asked: rate, low,
                        high (no winner counts half), equal_length, equal_length_low, equal_length_high (where both
                        answers are equally long; None where one side's always are longer), n = wins + losses + flips
                        (the two orders disagreed) + equal (answers: the judge was not asked), unusable (what the judge
                        said), unanswered (prompts without both answers), characters (mean of the student's answers, and
                        of the other's); in a replay of recorded answers
teacher                 calls, cached, cost_usd (of this run), uncertain_usd (of that, the worst case of attempts of
                        unknown cost), recorded_cost_usd (of the replies, when bought), abstain_rate, order_flip_rate,
                        comparisons, by_purpose (sums, also cached_tokens and cache_write_tokens),
                        saved_usd (by the provider's prompt cache, when bought; in by_purpose too), terms,
                        concurrency: changes of the limit on calls at once (at_s since the first call, limit, why,
                        model); empty in a replay, and only since the run was last resumed
teacher.by_model.MODEL  calls, cached, cost_usd, recorded_cost_usd, abstain_rate, comparisons, order_flip_rate,
                        verifier_comparisons (one winner, and the verifier tells the two answers apart),
                        verifier_agreement (share of them with the verifier's winner), terms
train                   steps, seconds, tokens, preferences, corrections, corrections_accepted, best_step, sft_step,
                        validation_score (None where nothing can tell), validations (step and score of each)
data                    train, validation, test, with_reference, demonstrations, demonstrations_used,
                        demonstrations_left_out (by the reason), skipped, duplicates (left out), near_duplicates,
                        near_left_out, test_seen_in_train, test_near_train
lessons                 what the rounds of a recipe gathered: drafted = passed + accepted + set_aside, accepted_after
                        (by revisions), set_aside_because (by reason), strategies, kept_share, nll_draft,
                        nll_correction (nats per token, means over accepted corrections), candidates, survivors,
                        with_survivor, without_survivor (prompts)
alarms                  what the monitors told: step, monitor, level (warn or stop), text
samples                 ten test prompts with every model's answer
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markdown_it import MarkdownIt

from bbdistill.metrics import money
from bbdistill.rundir import RunDir, read_json, write_json

MODELS = ("base", "sft", "student", "teacher")


def write_report(directory: RunDir, report: Mapping[str, Any], *, plots: str) -> None:
    """All three files; `plots` is an SVG."""
    directory.report_text.write_text(render(report), encoding="utf-8")
    directory.report_page.write_text(render_page(report, plots), encoding="utf-8")
    write_json(directory.report, report)  # last: where it is, the run is finished


def read_report(path: Path) -> dict[str, Any]:
    """The report of a run directory. RunError if the run has not finished."""
    return read_json(RunDir.finished(path).report)


def card(report: Mapping[str, Any]) -> str:
    """Model card of the adapter, with the front matter that model hubs read."""
    return _environment().get_template("card.md").render(report=report)


def render(report: Mapping[str, Any]) -> str:
    """The Markdown page."""
    return _environment().get_template("report.md").render(_shown(report))


def render_page(report: Mapping[str, Any], plots: str) -> str:
    """The same as one HTML file that loads nothing, with an SVG of plots, and the samples side by side.

    What models and prompts say is shown and never taken for markup: no HTML, no links, no pictures.
    """
    environment = _environment()
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink"])
    summary = markdown.render(environment.get_template("summary.md").render(_shown(report)))
    page = environment.get_template("report.html")
    return page.render(_shown(report), summary=summary, plots=plots)


def _shown(report: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "report": report,
        "models": MODELS,
        "gathered": gathered(report["lessons"]),
        "per_point": per_point(report),
    }


def per_point(report: Mapping[str, Any]) -> float | None:
    """Dollars, when bought and without the evaluation, per hundredth of score above the base.

    None where nothing was gained or paid, or a price is unknown.
    """
    student, base = report["eval"]["student"]["score"], report["eval"]["base"]["score"]
    lines = [line for purpose, line in report["teacher"]["by_purpose"].items() if purpose != "evaluation"]
    if student is None or base is None or student <= base or any(line["recorded_unpriced"] for line in lines):
        return None
    return sum(line["recorded_cost_usd"] for line in lines) / (100 * (student - base)) or None


def gathered(lessons: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the rounds of a recipe found worth imitating, in words; empty for a recipe without rounds."""
    found: list[tuple[str, str]] = []
    if lessons["drafted"]:
        mended = ", ".join(f"{count} by revision {number}" for number, count in lessons["accepted_after"].items())
        aside = "; ".join(f"{reason}: {count}" for reason, count in lessons["set_aside_because"].items())
        found = [
            ("drafts of the student", str(lessons["drafted"])),
            ("passed at once, and are imitated", str(lessons["passed"])),
            ("corrected until they passed", f"{lessons['accepted']}{f' ({mended})' if mended else ''}"),
            ("set aside", f"{lessons['set_aside']}{f' ({aside})' if aside else ''}"),
            ("strategies", str(lessons["strategies"])),
            ("share of the student's own words in a correction", number(lessons["kept_share"])),
            ("nats per token of a draft that was corrected", number(lessons["nll_draft"])),
            ("nats per token of its correction", number(lessons["nll_correction"])),
        ]
    if lessons["candidates"]:
        found += [
            ("candidates", str(lessons["candidates"])),
            ("that the verifier does not refute", str(lessons["survivors"])),
            ("prompts with one to imitate", str(lessons["with_survivor"])),
            ("prompts without", str(lessons["without_survivor"])),
        ]
    return found


def summary_lines(report: Mapping[str, Any]) -> Sequence[str]:
    """The result in a few lines, for a terminal."""
    lines = [] if report["train"]["tokens"] else ["the student is unchanged: nothing was found to learn from"]
    lines += ["            valid   score   95 % interval      n"]
    for name in MODELS:
        row = report["eval"][name]
        valid, score, low, high = (number(row[key]) for key in ("valid", "score", "low", "high"))
        lines.append(f"  {name:<8} {valid:>6}  {score:>6}   {low:>6} - {high:<6} {row['n']:>4}")
    gain, teacher = report["eval"]["student_minus_sft"], report["teacher"]
    lines.append(f"  student - sft: {number(gain['score'])} ({number(gain['low'])} - {number(gain['high'])})")
    judged: Mapping[str, Mapping[str, Any]] = report["eval"].get("win_rates") or {}
    for name, row in judged.items():
        rate, low, high, equal = (number(row[key]) for key in ("rate", "low", "high", "equal_length"))
        lines.append(f"  win rate against {name}: {rate} ({low} - {high}); at equal length: {equal}")
    left = report["eval"].get("outside")
    if left and left["n"]:
        lines.append(f"  outside the task: base {number(left['base'])}, student {number(left['student'])}")
    lines.append(
        f"  teacher: {teacher['calls']} calls, {teacher['cached']} from the record; "
        f"cost now {money(teacher['cost_usd'])}, when bought {money(teacher['recorded_cost_usd'])}"
    )
    return lines


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def cell(text: str) -> str:
    """Text that cannot break out of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def fenced(text: str | None) -> str:
    """A code block that the text cannot break out of."""
    shown = text if text is not None else "(no answer)"
    fence = "```"
    while fence in shown:
        fence += "`"
    return f"{fence}\n{shown}\n{fence}"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("bbdistill", "pages"),
        undefined=StrictUndefined,
        autoescape=select_autoescape(("html",)),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = cast(dict[str, Callable[..., str]], environment.filters)  # pyright: ignore[reportUnknownMemberType]
    filters.update(number=number, dollars=money, percent=percent, fenced=fenced, cell=cell)
    return environment
