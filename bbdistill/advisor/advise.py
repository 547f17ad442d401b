"""The verb: measures on the first prompts a run would take, decides, and writes the config that follows."""

import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from bbdistill.advisor.ask import AGAIN, ask, open_teacher
from bbdistill.advisor.checked import Case, Checked, look
from bbdistill.advisor.costs import costs
from bbdistill.advisor.decide import RECIPES, Advice, decide
from bbdistill.advisor.findings import Figure, Findings, marks, mean
from bbdistill.advisor.probes import Probed, probe, unprobed
from bbdistill.advisor.rollouts import Drawn, absent, draw, load, undrawn
from bbdistill.config import CacheMode, RunConfig, Settings
from bbdistill.errors import ConfigError, RunStopped
from bbdistill.metrics import Note, OnEvent, parting
from bbdistill.objectives import declines
from bbdistill.stages import epochs
from bbdistill.starter import may_write, rewrite_task
from bbdistill.task import Task, load_task, resolve
from bbdistill.teacher.connect import ready
from bbdistill.teacher.terms import notice
from bbdistill.types import Abstain, Demonstration, Prompt, Verdict

SAMPLE = 24
MAX_USD = 0.50
"""Cap where nobody states one; a lower one of the config counts."""
ROLLOUTS = 4
"""Per prompt."""


def advise(
    config: str | Path,
    *,
    overrides: tuple[str, ...] = (),
    sample: int = SAMPLE,
    max_usd: float | None = None,
    rollouts: int = ROLLOUTS,
    write: Path | None = None,
    mode: CacheMode = "auto",
    replay: str | None = None,
    on_event: OnEvent = lambda _: None,
    stop: threading.Event | None = None,
) -> Advice:
    """Which recipe fits the task of `config`, measured on `sample` prompts for at most `max_usd` dollars.

    The teacher's replies are stored: asking again costs nothing, and a run uses them. With `write`, a config of the
    recommended recipe is written there. ConfigError, before anything is spent, where it could not be, or the config is
    wrong, or no price is known to keep the cap by; BudgetExceeded where the cap allows not one answer; RunStopped soon
    after `stop` is set.
    """
    _check(sample=sample, rollouts=rollouts)
    path, stop = Path(config), stop or threading.Event()
    if write is not None:
        may_write(write, "--write")
    resolved = resolve(path, Settings(overrides=overrides, mode=mode, replay=replay))
    if max_usd is None:
        stated = resolved.teacher.max_usd
        max_usd = MAX_USD if stated is None else min(MAX_USD, stated)
    capped = resolve(resolved, Settings(max_usd=max_usd))
    task = load_task(capped)
    if (said := notice(capped)) is not None:
        on_event(Note(text=said))
    found = measure(capped, task, sample=sample, k=rollouts, mode=mode, replay=replay, on_event=on_event, stop=stop)
    advice = decide(found)
    on_event(Note(text="estimating what each recipe would take"))
    with _saying(found.spent_usd, on_event):
        priced = tuple(costs(path, overrides, task, found, _needs(advice), stop))
    if write is not None and advice.is_recipe:
        rewrite_task(path, (*overrides, f"recipe={advice.recommends}", *advice.settings), write, why=advice.reason)
    return replace(advice, findings=replace(found, costs=priced))


def measure(
    config: RunConfig,
    task: Task,
    *,
    sample: int = SAMPLE,
    k: int = ROLLOUTS,
    mode: CacheMode = "auto",
    replay: str | None = None,
    on_event: OnEvent = lambda _: None,
    stop: threading.Event | None = None,
) -> Findings:
    """The findings, all but what each recipe would cost."""
    stop = stop or threading.Event()
    prompts, given = _sample(task, config.train.seed, sample)
    check = Checked(task.verify, on_event=on_event, stop=stop)
    with _saying(0.0, on_event):
        # First what costs nothing: a key, a price, a verifier or a student that is wrong is found before anything is.
        ready(config.teacher, mode=mode, replay=replay)
        check.judge([(prompt, "") for prompt in prompts], "empty answers")
        student = load(config, on_event)
        local = open_teacher(config, on_event)
        asked = ask(config, prompts, mode=mode, replay=replay, on_event=on_event, stop=stop, local=local)
    if asked.fault:
        on_event(Note(text=f"{asked.answered} of {len(prompts)} prompts were answered: {asked.fault}"))
    with _saying(asked.spent_usd, on_event):
        look(stop)
        of_given, of_teacher = _cases(given), _cases(asked.usable)
        by_given = check.judge(of_given, "given demonstrations")
        by_teacher = check.judge(of_teacher, "answers of the teacher")
        drawn = undrawn(absent(config))
        if student is not None:
            drawn = draw(student, prompts, of_given or of_teacher, check, k=k, on_event=on_event, stop=stop)
        probed = unprobed("there is no verifier")
        if config.task.verifier is not None:
            probed = _probed([*of_given, *of_teacher], prompts, drawn, check)
    return Findings(
        prompts=len(task.train),
        given=sum(prompt.id in task.demonstrations for prompt in task.train),
        has_verifier=config.task.verifier is not None,
        given_pass=marks(by_given).passed,
        given_score=marks(by_given).score,
        teacher_answers=mean([*_answering(of_teacher, by_teacher), *([0.0] * asked.abstained)], asked.fault),
        teacher_fault=asked.fault,
        teacher_pass=marks(by_teacher).passed,
        teacher_score=marks(by_teacher).score,
        gives_log_probs=config.teacher.gives_log_probs,
        k=k,
        spent_usd=asked.spent_usd,
        **_figures(probed),
        **_figures(drawn),
    )


def _needs(advice: Advice) -> dict[str, Sequence[str]]:
    """What each recipe needs set beside its name, the recommended one first, then the runner-up."""
    first = {advice.recommends: advice.settings} if advice.is_recipe else {}
    second = {advice.runner_up.recipe: advice.runner_up.settings} if advice.runner_up is not None else {}
    return {**first, **second, **{name: () for name in RECIPES if name not in {**first, **second}}}


def _check(*, sample: int, rollouts: int) -> None:
    if sample < 1:
        raise ConfigError(f"`sample`: expected 1 prompt or more, got {sample}")
    if rollouts < 2:
        raise ConfigError(f"`rollouts`: expected 2 or more, since one says nothing of how they vary, got {rollouts}")


def _sample(task: Task, seed: int, size: int) -> tuple[list[Prompt], list[Demonstration]]:
    """The prompts to ask about, and given demonstrations: the first that a run would come to.

    Prompts without a demonstration come first, since those are the ones that a run asks about.
    """
    ids = epochs([prompt.id for prompt in task.train], seed, 0, len(task.train))
    ids.sort(key=lambda name: name in task.demonstrations)
    given = [task.demonstrations[name] for name in ids if name in task.demonstrations]
    return [task.prompt(name) for name in ids[:size]], given[:size]


def _probed(known: Sequence[Case], prompts: Sequence[Prompt], drawn: Drawn, check: Checked) -> Probed:
    """The verifier on every prompt that something is known of, and on what the student said there."""
    everywhere = {prompt.id: prompt for prompt in (*prompts, *(prompt for prompt, _ in known))}
    texts = {
        name: [*(text for prompt, text in known if prompt.id == name), *drawn.texts.get(name, ())]
        for name in everywhere
    }
    return probe(list(everywhere.values()), texts, check)


def _answering(cases: Sequence[Case], verdicts: Sequence[Verdict | Abstain]) -> list[float]:
    """1 for each answer that is one, 0 for one that declines to give any; as a run sorts them out."""
    return [float(not declines(verdict, text)) for (_, text), verdict in zip(cases, verdicts, strict=True)]


def _cases(rows: Sequence[Demonstration]) -> list[Case]:
    return [(one.prompt, one.completion) for one in rows]


def _figures(measured: Probed | Drawn) -> dict[str, Any]:
    """Fields that `Findings` has under the same names."""
    return {each.name: value for each in fields(measured) if isinstance(value := getattr(measured, each.name), Figure)}


@contextmanager
def _saying(spent_usd: float | None, on_event: OnEvent) -> Generator[None]:
    """Whatever ends the block early, what was spent before it is said, and how to go on."""
    try:
        yield
    except RunStopped:
        raise RunStopped(parting(spent_usd, AGAIN)) from None
    except Exception:
        if spent_usd != 0:
            on_event(Note(text=parting(spent_usd, AGAIN)))
        raise
