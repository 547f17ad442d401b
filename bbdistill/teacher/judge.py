"""The judge, where it is another model than the teacher: the same record, run, cap and ledger."""

from dataclasses import replace

from bbdistill.config import RunConfig
from bbdistill.teacher.connect import Connection
from bbdistill.teacher.teacher import Teacher
from bbdistill.types import Abstain, Judgement, Preference, Verdict


def teacher_and_judge(config: RunConfig, connection: Connection) -> tuple[Teacher, Teacher]:
    """Both on one connection, which the caller opened and closes; one and the same where there is no `[judge]`."""
    templates = config.task.templates
    teacher = Teacher.from_config(
        config.teacher, templates=templates, answer_options=config.answer_options, connection=connection
    )
    if connection.judge is None:
        return teacher, teacher
    beside = replace(connection, provider=connection.judge)
    judge = Teacher.from_config(config.judge_config, templates=templates, connection=beside)
    judge.ledger = teacher.ledger
    return teacher, judge


def check_winner(
    judge: Teacher, judgement: Judgement, a: str, verdicts: tuple[Verdict | Abstain, Verdict | Abstain]
) -> None:
    """Counts whether the judge agrees with the verifier on `a` and another answer, where both have a winner."""
    match judgement, verdicts:
        case Preference(chosen=chosen), (Verdict(score=of_a), Verdict(score=of_b)) if of_a != of_b:
            judge.ledger.checked(judge.config.model, agreed=(chosen == a) == (of_a > of_b))
        case _:
            pass
