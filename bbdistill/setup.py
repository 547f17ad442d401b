"""Makes the objects of a run from its config: data, verifier, teacher, record, student; closes them again."""

import threading
from collections.abc import Container, Coroutine, Generator
from concurrent.futures import Future, TimeoutError
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from bbdistill.client.loop import LoopThread
from bbdistill.config import RunConfig, Settings
from bbdistill.configfile import dump_config
from bbdistill.credit import Assign, ByAdvice, ByCorrection, evenly
from bbdistill.errors import RunError, RunStopped
from bbdistill.local import open_local
from bbdistill.metrics import Note, OnEvent
from bbdistill.place import REPLAYABLE_CHANGES, Place, differing
from bbdistill.plan import Plan
from bbdistill.rundir import RunDir, alone
from bbdistill.stages import Stage, stages
from bbdistill.student.discriminator import Discriminator, NoDiscriminator
from bbdistill.student.export import load_adapter
from bbdistill.student.open import open_student
from bbdistill.student.student import Student
from bbdistill.task import Task
from bbdistill.teacher.connect import connect
from bbdistill.teacher.judge import teacher_and_judge
from bbdistill.teacher.ledger import ENOUGH
from bbdistill.teacher.scorer import GivenScorer, NoScorer, OwnScorer, Scorer
from bbdistill.teacher.teacher import Teacher
from bbdistill.teacher.terms import notice

T = TypeVar("T")
LOOK_EVERY_S = 0.1
"""How soon a wish to stop is heard while the teacher is being waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The live objects of one run."""

    id: str
    config: RunConfig
    directory: RunDir
    replayed: str | None
    task: Task
    stages: tuple[Stage, ...]
    plan: Plan
    teacher: Teacher
    judge: Teacher
    """Who compares; the teacher itself where the config names no other."""
    student: Student
    discriminator: Discriminator | NoDiscriminator
    scorer: Scorer
    """Who says how likely the teacher finds a text, where the recipe asks for that."""
    credit: Assign
    """Which tokens of its rollouts a step's advantages are for."""
    loop: LoopThread
    on_event: OnEvent
    stop: threading.Event
    batch: bool
    """Whether what can wait goes through the provider's batch API."""

    def note(self, text: str) -> None:
        self.on_event(Note(text=text))

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Starts the teacher's work in the client's own thread, where no training step can starve a timeout."""
        if self.stop.is_set():
            work.close()
            self.check_stop()
        return self.loop.submit(work)

    def wait(self, future: Future[T], what: str) -> T:
        """The result; progress is told while waiting, and `stop` ends the wait."""
        ledger = self.teacher.ledger
        before = ledger.calls - ledger.in_flight
        while True:
            try:
                return future.result(timeout=LOOK_EVERY_S)
            except TimeoutError:
                if future.done():
                    raise
            except KeyboardInterrupt:
                future.cancel()
                raise
            if self.stop.is_set():
                future.cancel()
                self.check_stop()
            if ledger.calls == before:
                continue  # a batch is under way, and tells of itself
            self.on_event(self.teacher.progress(what, total=ledger.calls - before, before=before))

    def drain(self) -> None:
        """Sends nothing more to the teacher, and waits until all that is on the wire is stored."""
        self.loop.run(self.teacher.drain())

    def check_stop(self) -> None:
        # Not KeyboardInterrupt: asyncio lets that one out of the loop at once, past every handler.
        if self.stop.is_set():
            raise RunStopped("the run was asked to stop")

    @property
    def why_unusable(self) -> str:
        """The commonest reasons for which replies were not usable, with their counts."""
        found = self.teacher.ledger.abstain_reasons.most_common(3)
        return ", ".join(f"{reason} ({count})" for reason, count in found)

    def check_abstentions(self, *purposes: str) -> None:
        """RunError where too many of these calls gave nothing usable."""
        ledger, allowed = self.teacher.ledger, self.config.feedback.max_abstain_rate
        calls, rate = ledger.calls_for(*purposes), ledger.abstain_rate(*purposes)
        if calls >= ENOUGH and rate > allowed:
            asked = f"{calls} calls for {' and '.join(name for name in purposes if ledger.calls_for(name))}"
            raise RunError(
                f"{100 * rate:.0f} % of {asked} gave nothing usable ({self.why_unusable}); "
                f"`feedback.max_abstain_rate` allows {100 * allowed:.0f} %; see "
                f"`bbdistill cache list {self.config.teacher.cache}`"
            )


@contextmanager
def open_run(
    place: Place, config: RunConfig, task: Task, settings: Settings, on_event: OnEvent, stop: threading.Event
) -> Generator[Run]:
    """Everything a run needs, opened in the order in which it is cheapest to fail; what fails leaves nothing behind."""
    on_event(Note(text=f"run {place.run} in {place.path}"))
    said = notice(config)
    if said is not None:
        on_event(Note(text=said))
    with ExitStack() as held:
        if settings.resume:
            held.enter_context(alone(place.path))
        student, discriminator = open_student(config)
        start = config.require_student().adapter
        if start is not None:
            load_adapter(student, start)
        student.check_room((*task.train, *task.validation, *task.test))  # before anything is paid for
        local = open_local(config.teacher.model_name, top_k=config.distill.top_k) if config.teacher.is_local else None
        connection = connect(
            config.teacher,
            judge=config.judge_config if config.judge else None,
            mode=settings.mode,
            replay=settings.replay,
            keys=place.keys,
            run=place.run,
            facts={"config": dump_config(config)},
            local=local,
        )
        teacher, judge = teacher_and_judge(config, connection)
        loop = LoopThread()
        held.callback(loop.close)
        held.callback(lambda: loop.run(connection.close()))
        directory = RunDir(place.path)
        if not settings.resume:
            directory = RunDir.create(place.path, place.facts, overwrite=settings.overwrite)
            held.enter_context(alone(directory.path))
        yield Run(
            id=place.run,
            config=config,
            directory=directory,
            replayed=connection.source if connection.replaying else None,
            task=task,
            stages=stages(config, [prompt.id for prompt in task.train], task.demonstrations),
            plan=Plan(store=connection.store, run=connection.source or place.run, replaying=connection.replaying),
            teacher=teacher,
            judge=judge,
            student=student,
            discriminator=discriminator,
            scorer=local or _scorer(config, teacher, given=task.demonstrations),
            credit=_credit(config, student),
            loop=loop,
            on_event=on_event,
            stop=stop,
            # A resumed run goes on the way it was begun: its batches may still be out.
            batch=settings.batch or bool(place.facts.get("batch")),
        )


def _scorer(config: RunConfig, teacher: Teacher, *, given: Container[str]) -> Scorer:
    """`given`: prompts whose answers came with the data."""
    if config.recipe not in ("kd", "opd"):
        return NoScorer()
    if config.distill.scores == "own":
        return OwnScorer(teacher, given=given)
    return GivenScorer(teacher, top_k=config.distill.top_k)


def _credit(config: RunConfig, student: Student) -> Assign:
    if config.recipe == "coach":
        return ByAdvice(student.evidence, clip=config.policy.credit_clip)
    return ByCorrection(student.touched) if config.policy.token_credit else evenly


def note_what_differs(run: Run) -> None:
    """What a replay has that its record was not made with: of both, rollouts and decisions mean most to their own."""
    changed = differing(run.plan.recorded_config(), run.config, apart_from=REPLAYABLE_CHANGES)
    if changed:
        run.note(f"note: the recorded run had another {', '.join(changed)}; figures may differ from those recorded")
    mine = {"weight_hash": run.student.base.weight_hash}
    if run.plan.decide(0, "student", lambda: mine) != mine:
        run.note("note: the recorded run had a student with other weights; its figures will differ from those recorded")
