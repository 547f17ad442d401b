"""The end of a run: its best student saved, every model evaluated once on the test prompts, the report written."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bbdistill import care, data, evaluate, evidence, outside, winrate
from bbdistill.config import RunConfig
from bbdistill.configfile import parse_config
from bbdistill.errors import ReplayMiss
from bbdistill.evaluate import Answers
from bbdistill.metrics import Note, OnEvent
from bbdistill.place import versions
from bbdistill.report import MODELS, card, write_report
from bbdistill.rundir import RunDir, read_json
from bbdistill.runner import RunResult
from bbdistill.setup import Run
from bbdistill.state import TrainState
from bbdistill.student.export import load_adapter, save_adapter
from bbdistill.student.open import open_student
from bbdistill.student.student import Student
from bbdistill.student.tokenize import NO_STRATEGY
from bbdistill.task import load_task
from bbdistill.teacher.ask import demonstrations
from bbdistill.teacher.terms import terms_of
from bbdistill.types import Demonstration, Prompt, Verify

SAMPLES = 10


def finish(run: Run, state: TrainState) -> RunResult:
    """Adapter, evaluation, report."""
    if state.step and not state.counts.tokens:
        reasons = f" ({run.why_unusable})" if run.why_unusable else ""
        run.note(f"note: no step had anything to learn from{reasons}, so the student is as it was")
    answers = _evaluate(run, state)
    evidence.write_rows(run.directory.evaluation, _evaluation(run.task.test, answers))
    report = _report(run, state, answers, _win_rates(run, state, answers), _forgotten(run))
    save_adapter(run.directory.adapter, run.student, card=card(report))
    from bbdistill.plots import plots  # matplotlib takes half a second, and nothing else here needs it

    rows = [json.loads(line) for line in run.directory.metrics.read_text(encoding="utf-8").splitlines()]
    drawn = plots(rows, state.curve, state.monitors.memory, state.monitors.alarms)
    write_report(run.directory, report, plots=drawn)
    run.plan.finished()
    return RunResult(directory=run.directory.path, adapter=run.directory.adapter, report=report)


def _evaluate(run: Run, state: TrainState) -> dict[str, Answers]:
    """The test split, touched once. Leaves the best adapter in the student."""
    prompts, student, check = run.task.test, run.student, run.task.verify
    asking = run.submit(demonstrations(run.teacher, prompts, purpose="evaluation"))
    replies = run.wait(asking, "evaluation: asking the teacher")
    taught = [reply.completion if isinstance(reply, Demonstration) else None for reply in replies]

    def measured(name: str, *, adapter: bool) -> Answers:
        run.check_stop()
        run.note(f"evaluation: {name} on {len(prompts)} test prompts")
        return answers_of(student, name, prompts, check, taught, adapter=adapter)

    found = {"teacher": evaluate.judge("teacher", prompts, taught, check), "base": measured("base", adapter=False)}
    student.load_adapter_state(state.sft)
    student.tags = state.sft_tags
    begun = state.sft_step or run.config.require_student().adapter
    found["sft"] = measured("sft", adapter=True) if begun else replace(found["base"], name="sft")
    if state.best_step == state.sft_step:
        found["student"] = replace(found["sft"], name="student")
    else:
        student.load_adapter_state(state.best)
        student.tags = state.best_tags
        found["student"] = measured("student", adapter=True)
    return found


def _win_rates(run: Run, state: TrainState, answers: Mapping[str, Answers]) -> dict[str, Any] | None:
    """What the judge prefers of answers to the first test prompts; None where nobody wants to know.

    A replay has no judge for answers that were never compared: it takes the recorded ones.
    """
    first = run.task.test[: run.config.task.win_rate_size]
    if not first:
        return None
    mine = {name: dict(zip((p.id for p in first), answers[name].texts, strict=False)) for name in MODELS}
    try:
        texts = run.plan.decide(state.step, "compared", lambda: mine)
    except ReplayMiss:
        run.note("note: the recorded run compared no answers, so there are no win rates")
        return None
    prompts = [prompt for prompt in first if prompt.id in texts[winrate.STUDENT]]
    said = {name: [texts[name][prompt.id] for prompt in prompts] for name in MODELS}
    asking = run.submit(winrate.matches(run.judge, prompts, said, run.task.verify))
    played = run.wait(asking, "evaluation: asking the judge")
    evidence.write_rows(run.directory.judgements, winrate.rows(played))
    others = [name for name in MODELS if name != winrate.STUDENT]
    return winrate.win_rates(played, others, len(prompts))


def _forgotten(run: Run) -> dict[str, Any]:
    """What base and student, with the adapter it has now, answer to questions outside the task."""
    run.check_stop()
    questions = [each for each in outside.questions() if run.student.has_room(each, outside.MAX_NEW_TOKENS)]
    run.note(f"evaluation: base and student on {len(questions)} questions outside the task")
    base, student = (
        run.student.answer(questions, adapter=adapter, most=outside.MAX_NEW_TOKENS) for adapter in (False, True)
    )
    return outside.forgotten(questions, base, student)


def answers_of(
    student: Student,
    name: str,
    prompts: Sequence[Prompt],
    check: Verify,
    taught: Sequence[str | None],
    *,
    adapter: bool,
) -> Answers:
    """Greedy answers of the student, judged, and its NLL of the teacher's answers, as far as it can hold them."""
    given = [(prompt, text) for prompt, text in zip(prompts, taught, strict=True) if text is not None]
    pairs = [(prompt, text) for prompt, text in given if student.holds(prompt, text)]
    judged = evaluate.judge(name, prompts, student.answer(prompts, adapter=adapter), check)
    return replace(judged, nll=evaluate.mean(student.nll(pairs, adapter=adapter)))


def _report(
    run: Run,
    state: TrainState,
    answers: Mapping[str, Answers],
    win_rates: Mapping[str, Any] | None,
    forgotten: Mapping[str, Any],
) -> dict[str, Any]:
    """See `report.py` for the keys."""
    task, demonstrated = run.task, run.directory.demonstrations
    everything = demonstrated.read_bytes().count(b"\n")
    return {
        "run": {
            "id": run.id,
            "recipe": run.config.recipe,
            "replayed": run.replayed,
            "student": run.config.require_student().model,
            "teacher": run.config.teacher.model,
            "judge": run.config.judge_config.model,
            "versions": versions(),
            "answers_behind": NO_STRATEGY if run.student.tags else "",
        },
        "eval": {
            **{name: answers[name].summary() for name in MODELS},
            "student_minus_sft": evaluate.difference(answers["student"], answers["sft"]),
            "win_rates": win_rates,
            "outside": forgotten,
        },
        "teacher": _asked(run),
        "train": {
            "steps": state.step,
            **asdict(state.counts),
            "best_step": state.best_step,
            "sft_step": state.sft_step,
            "validation_score": state.best_score,
            "validations": list(map(list, state.curve)),
        },
        "lessons": state.tally.summary(),
        "alarms": state.monitors.alarms,
        "data": {
            "train": len(task.train),
            "validation": len(task.validation),
            "test": len(task.test),
            "test_is_validation": task.test_is_validation,
            "with_reference": sum(prompt.reference is not None for prompt in task.train),
            "demonstrations": everything,
            "demonstrations_used": state.demonstrations_used,
            "demonstrations_left_out": state.demonstrations_left_out,
            "skipped": task.skipped,
            "duplicates": task.duplicates,
            "near_duplicates": care.near_within(task.train),
            "near_left_out": task.near_left_out,
            "test_seen_in_train": task.test_seen_in_train,
            "test_near_train": care.near_between(task.train, task.test),
        },
        "samples": [_sample(prompt, index, answers) for index, prompt in enumerate(task.test[:SAMPLES])],
    }


def _asked(run: Run) -> dict[str, Any]:
    """What was asked and paid, and what permits training on the answers of each model."""
    table = run.teacher.summary()
    terms = {config.model: terms_of(config) for config in (run.judge.config, run.teacher.config)}
    by_model = {model: row | {"terms": terms[model]} for model, row in table["by_model"].items()}
    concurrency = [
        {**asdict(change), "model": history.model} for history in run.teacher.limits for change in history.changes
    ]
    return {**table, "by_model": by_model, "terms": terms_of(run.config.teacher), "concurrency": concurrency}


def _sample(prompt: Prompt, index: int, answers: Mapping[str, Answers]) -> dict[str, Any]:
    return {
        "id": prompt.id,
        "prompt": "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in prompt.messages),
        "reference": prompt.reference,
        "answers": {name: answers[name].texts[index] for name in MODELS},
        "scores": {name: answers[name].scores[index] for name in MODELS},
    }


def _evaluation(prompts: Sequence[Prompt], answers: Mapping[str, Answers]) -> Iterator[dict[str, Any]]:
    """Rows of evaluation.jsonl: id, model, completion, valid, score; null where there is no answer or no judgement."""
    for name in MODELS:
        found = answers[name]
        for prompt, text, valid, score in zip(prompts, found.texts, found.valid, found.scores, strict=True):
            yield {"id": prompt.id, "model": name, "completion": text, "valid": valid, "score": score}


def evaluate_finished(directory: RunDir, test: Path | None, on_event: OnEvent) -> dict[str, dict[str, Any]]:
    """Base and adapter of a finished run on its test prompts, or on another file's."""
    config, student = _reopened(directory)
    task = load_task(config, skip_bad=bool(read_json(directory.config).get("skip_bad")))
    prompts = data.load_prompts(test).prompts if test else task.test
    found: dict[str, dict[str, Any]] = {}
    for name, adapter in (("base", False), ("student", True)):
        on_event(Note(text=f"{name} on {len(prompts)} prompts"))
        texts = student.answer(prompts, adapter=adapter)
        found[name] = evaluate.judge(name, prompts, texts, task.verify).summary()
    return found


def sample_finished(directory: RunDir, text: str, *, system: str | None, base: bool, temperature: float) -> str:
    """One answer of a finished run's student."""
    _, student = _reopened(directory)
    messages = ({"role": "system", "content": system},) if system else ()
    prompt = Prompt(id="sample", messages=(*messages, {"role": "user", "content": text}))
    return student.answer([prompt], adapter=not base, temperature=temperature)[0]


def _reopened(directory: RunDir) -> tuple[RunConfig, Student]:
    config = parse_config(read_json(directory.config)["config"], where=str(directory.config), base=Path("/"))
    student, _ = open_student(config)
    load_adapter(student, directory.adapter)
    return config, student
