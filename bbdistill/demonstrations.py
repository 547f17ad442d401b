"""The answers a run imitates or holds against its student's: bought from the teacher, or come with the data."""

from collections.abc import Sequence

from bbdistill import evidence
from bbdistill.errors import RunError
from bbdistill.objectives import TOO_LONG, Sifted, sift
from bbdistill.setup import Run
from bbdistill.stages import demonstrated, prompts_used
from bbdistill.teacher.ask import demonstrations as ask_demonstrations
from bbdistill.teacher.batch import fetch as fetch_by_batch
from bbdistill.types import Demonstration, Prompt, Purpose


def collect_demonstrations(run: Run) -> Sifted:
    """The teacher's answer to every prompt whose demonstration the run will imitate, less those not worth it."""
    shown = demonstrated(run.config, [prompt.id for prompt in run.task.train], run.task.demonstrations)
    used = prompts_used(run.stages, run.config.train.seed, shown)
    chosen = run.plan.decide(0, "demonstrations", lambda: {"prompts": used})
    if run.plan.replaying:
        # A prompt that was changed: asking for it fails with the nearest recorded request and the difference.
        changed = [
            run.task.prompt(prompt_id)
            for prompt_id in used
            if prompt_id not in {*chosen["prompts"], *run.task.demonstrations}
        ]
        run.wait(run.submit(ask_demonstrations(run.teacher, changed)), "looking for changed prompts")
    given = run.task.demonstrations
    missing = [run.task.prompt(prompt_id) for prompt_id in chosen["prompts"] if prompt_id not in given]
    if run.batch:
        # The evaluation's questions are known by now, and a batch may take a day: both at once.
        wanted: dict[Purpose, Sequence[Prompt]] = {"demonstrations": missing, "evaluation": run.task.test}
        run.wait(run.submit(fetch_by_batch(run.teacher, wanted, tell=run.on_event)), "waiting for batches")
    answers = run.wait(run.submit(ask_demonstrations(run.teacher, missing)), "asking for demonstrations")
    run.check_abstentions("demonstrations")
    asked = [answer for answer in answers if isinstance(answer, Demonstration)]
    found = [*(given[prompt_id] for prompt_id in chosen["prompts"] if prompt_id in given), *asked]
    if used and not found:
        raise RunError(
            f"the teacher gave no usable answer to any of {len(missing)} prompts ({run.why_unusable}); see "
            f"`bbdistill cache list {run.config.teacher.cache}`"
        )
    evidence.write_demonstrations(run.directory.demonstrations, found)
    sifted = sift(found, run.task.verify, run.student.fits)
    without = ", ".join(f"{count} {reason}" for reason, count in sifted.left_out.items())
    if used and not sifted.kept:
        look = run.directory.command("verify", str(run.directory.demonstrations))
        longer = "; raise `student.max_new_tokens` if longer answers are right" if TOO_LONG in sifted.left_out else ""
        raise RunError(
            f"none of the {len(found)} demonstrations may be imitated ({without}); see why with: {look}{longer}"
        )
    if used:
        run.note(f"{len(found)} demonstrations{f', left out: {without}' if without else ''}")
    return sifted
