"""The verb: measures on the first prompts a run would take, decides, and writes the config that follows."""

import threading
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from bbdistill.advisor.ask import ask
from bbdistill.advisor.costs import costs
from bbdistill.advisor.decide import RECIPES, Advice, decide
from bbdistill.advisor.findings import Figure, Findings, marks, mean
from bbdistill.advisor.probes import Probed, probe
from bbdistill.advisor.rollouts import Drawn, draw
from bbdistill.config import CacheMode, RunConfig, Settings
from bbdistill.errors import ConfigError, RunStopped
from bbdistill.metrics import Note, OnEvent, parting
from bbdistill.stages import epochs
from bbdistill.starter import rewrite_task
from bbdistill.task import Task, Verify, load_task, resolve
from bbdistill.teacher.terms import notice
from bbdistill.types import Demonstration, Prompt

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
    recommended recipe is written there. ConfigError where that file exists or the config is wrong; BudgetExceeded where
    the cap allows not one answer, or no price is known to keep it by (of a server of your own, state 0).
    """
    path = Path(config)
    if write is not None and write.exists():
        raise ConfigError(f"`{write}` exists and is not overwritten; move it away or give another --write")
    settings = Settings(overrides=overrides, mode=mode, replay=replay)
    resolved = resolve(path, settings)
    if max_usd is None:
        max_usd = min(MAX_USD, resolved.teacher.max_usd or MAX_USD)
    capped = resolve(resolved, Settings(max_usd=max_usd))
    task = load_task(capped)
    stop = stop or threading.Event()
    said = notice(capped)
    if said is not None:
        on_event(Note(text=said))
    found = measure(capped, task, sample=sample, k=rollouts, mode=mode, replay=replay, on_event=on_event, stop=stop)
    advice = decide(replace(found, costs=tuple(costs(path, overrides, RECIPES, found))))
    if write is not None and advice.is_recipe:
        rewrite_task(path, (*overrides, f"recipe={advice.recommends}", *advice.settings), write, why=advice.reason)
    return advice


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
    asked = ask(config, prompts, mode=mode, replay=replay, on_event=on_event, stop=stop)
    if asked.fault:
        on_event(Note(text=f"{len(asked.told)} of {len(prompts)} prompts were answered: {asked.fault}"))
    answers = [(one.prompt, one.completion) for one in given or asked.usable]
    try:
        drawn = draw(config, prompts, answers, task.verify, k=k, on_event=on_event, stop=stop)
    except RunStopped:
        raise RunStopped(parting(asked.spent_usd, "the same command")) from None
    probed = _probed([*given, *asked.usable], prompts, drawn, task.verify)
    of_given, of_teacher = (
        marks([task.verify(one.prompt, one.completion) for one in rows]) for rows in (given, asked.usable)
    )
    return Findings(
        prompts=len(task.train),
        given=sum(prompt.id in task.demonstrations for prompt in task.train),
        has_verifier=config.task.verifier is not None,
        given_pass=of_given.passed,
        given_score=of_given.score,
        teacher_answers=mean(asked.told, asked.fault),
        teacher_pass=of_teacher.passed,
        teacher_score=of_teacher.score,
        k=k,
        spent_usd=asked.spent_usd,
        **_figures(probed),
        **_figures(drawn),
    )


def _sample(task: Task, seed: int, size: int) -> tuple[list[Prompt], list[Demonstration]]:
    """The prompts to ask about, and given demonstrations: the first that a run would come to.

    Prompts without a demonstration come first, since those are the ones that a run asks about.
    """
    ids = epochs([prompt.id for prompt in task.train], seed, 0, len(task.train))
    ids.sort(key=lambda name: name in task.demonstrations)
    given = [task.demonstrations[name] for name in ids if name in task.demonstrations]
    return [task.prompt(name) for name in ids[:size]], given[:size]


def _probed(known: Sequence[Demonstration], prompts: Sequence[Prompt], drawn: Drawn, verify: Verify) -> Probed:
    """The verifier on every prompt that something is known of, and on what the student said there."""
    everywhere = {prompt.id: prompt for prompt in (*prompts, *(one.prompt for one in known))}
    texts = {
        name: [*(one.completion for one in known if one.prompt.id == name), *drawn.texts.get(name, ())]
        for name in everywhere
    }
    return probe(list(everywhere.values()), texts, verify)


def _figures(measured: Probed | Drawn) -> dict[str, Any]:
    """Fields that `Findings` has under the same names."""
    return {each.name: value for each in fields(measured) if isinstance(value := getattr(measured, each.name), Figure)}
