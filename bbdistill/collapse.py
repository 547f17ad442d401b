"""The end of a run that goes wrong: its best student is kept, and the error says how to go on from there."""

from bbdistill.errors import Collapse
from bbdistill.metrics import Alarm
from bbdistill.monitors import collapsed
from bbdistill.setup import Run
from bbdistill.state import TrainState
from bbdistill.student.export import save_adapter

_CARD = "The best student of a run that was stopped by `{monitor}` at step {step}; it was validated at step {best}.\n"


def collapse(run: Run, state: TrainState, alarm: Alarm) -> Collapse:
    """Saves the state, and the best adapter into the run's `best/`. Leaves that adapter in the student."""
    state.save(run)
    changed = [word for change in _mended(run, alarm) for word in ("--set", change)]
    again = (*changed, *run.directory.options())
    if not state.best:
        go_on = run.directory.command("run", *again)
        return Collapse(collapsed(alarm, step=state.step, best="", go_on=go_on))
    run.student.load_adapter_state(state.best)
    run.student.tags = state.best_tags
    card = _CARD.format(monitor=alarm.monitor, step=state.step, best=state.best_step)
    save_adapter(run.directory.best, run.student, card=card)
    start = ("--set", f"student.adapter={run.directory.best.resolve()}", "--set", "train.warmup_max=0")
    score = "which nothing judged" if state.best_score is None else f"{state.best_score:.3f}"
    best = f"step {state.best_step}, {score}"
    return Collapse(collapsed(alarm, step=state.step, best=best, go_on=run.directory.command("run", *start, *again)))


def _mended(run: Run, alarm: Alarm) -> tuple[str, ...]:
    """What the next try is to change: the cause where it is plain, else the rate."""
    student, rate = run.config.require_student(), run.config.train.policy_learning_rate
    match alarm.monitor:
        case "mismatch" | "cut_weights" if (student.temperature, student.top_p) != (1, 1):
            return ("student.temperature=1", "student.top_p=1")
        case "truncation":
            return (f"student.max_new_tokens={2 * student.max_new_tokens}",)
        case _:
            return (f"train.policy_learning_rate={rate / 2:g}",)
