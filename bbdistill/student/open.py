"""Puts what a run trains on one base: the student, its discriminator where it has one, and the adapters of both."""

from collections.abc import Sequence

from bbdistill.config import RunConfig
from bbdistill.config.models import StudentConfig
from bbdistill.errors import ConfigError
from bbdistill.student.adapters import Adapters
from bbdistill.student.discriminator import DISCRIMINATOR, TRIPWIRE, Discriminator, NoDiscriminator
from bbdistill.student.model import load_base, load_chat
from bbdistill.student.student import FOLLOWER, POLICY, SNAPSHOT, Student
from bbdistill.types import Prompt


def open_student(config: RunConfig) -> tuple[Student, Discriminator | NoDiscriminator]:
    """Loads the base once and puts the adapters on it that the recipe needs."""
    settings, train = config.require_student(), config.train
    base = load_base(settings.model, device=settings.device, dtype=settings.dtype)
    if config.recipe == "process" and not base.chat.tokenizer.is_fast:
        raise ConfigError(
            f"the tokenizer of `{base.name}` cannot say which characters its tokens hold, which `process` needs to "
            "weigh the corrected part alone; use a student with a fast tokenizer, or the recipe `isft`"
        )
    if config.recipe in ("kd", "opd"):
        _ = base.chat.spelling  # a tokenizer that it cannot read is refused before anything is paid for
    judged = config.rewarded and config.reward.discriminator > 0
    more = (
        *((DISCRIMINATOR, TRIPWIRE) if judged else ()),
        *((SNAPSHOT,) if config.recipe == "dpo" else ()),
        *((FOLLOWER,) if config.recipe == "coach" and config.coach.self == "ema" else ()),
    )
    adapters = Adapters(base, (POLICY, *more), rank=settings.lora_rank, alpha=settings.lora_alpha, seed=train.seed)
    student = Student(base, adapters, config)
    if not judged:
        return student, NoDiscriminator()
    discriminator = Discriminator(
        base, adapters, config.discriminator, seed=train.seed, max_grad_norm=train.max_grad_norm
    )
    return student, discriminator


def preview(settings: StudentConfig, prompts: Sequence[Prompt]) -> list[str]:
    """Lines that show what the student is asked, and that its chat template can be trained on. Loads no weights."""
    chat = load_chat(settings.model)
    lines = [f"`{settings.model}`: a turn ends with {', '.join(sorted(chat.eos_texts))}"]
    for prompt in prompts:
        ids = chat.prompt_ids(prompt.messages)
        lines.append(f"prompt {prompt.id}, {len(ids)} tokens:")
        lines += [f"  {line}" for line in chat.decode(ids).splitlines()]
    return lines
