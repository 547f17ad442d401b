"""A config's task, loaded: prompts in three splits, demonstrations that came with them, and the verifier. No torch."""

import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bbdistill import care, verify
from bbdistill.config import RunConfig, Settings
from bbdistill.configfile import load_config
from bbdistill.data import load_prompts, split
from bbdistill.errors import ConfigError, ReplayMiss
from bbdistill.types import Abstain, Demonstration, Prompt, Rollout, Verdict, Verify


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is to be learned. `test` is the validation split where no test file is named."""

    train: tuple[Prompt, ...]
    validation: tuple[Prompt, ...]
    test: tuple[Prompt, ...]
    demonstrations: Mapping[str, Demonstration]
    """By prompt id; those that came with the data and need not be bought."""
    verify: Verify
    skipped: int
    """Bad lines that were left out."""
    duplicates: int
    """Training prompts that stood there already and were left out."""
    near_left_out: int
    """The same of prompts that said almost what an earlier one says; 0 where that is not asked for."""
    test_is_validation: bool
    prompts_file: Path

    def prompt(self, prompt_id: str) -> Prompt:
        """A training prompt by its id. ReplayMiss where a plan names one that is not there."""
        for prompt in self.train:
            if prompt.id == prompt_id:
                return prompt
        raise ReplayMiss(
            f"the plan names prompt `{prompt_id}`, which is not in `{self.prompts_file}`; "
            "resume and replay with the prompts of the recorded run"
        )

    @property
    def test_seen_in_train(self) -> int:
        """Test prompts whose conversation the run also sees: to train on, or to choose the best student by."""
        return _seen(self.test, self.train if self.test_is_validation else (*self.train, *self.validation))

    @property
    def validation_seen_in_train(self) -> int:
        """Validation prompts whose conversation the run is also trained on."""
        return _seen(self.validation, self.train)


def resolve(given: str | Path | RunConfig, settings: Settings) -> RunConfig:
    """The config as this run uses it: read, overridden, capped."""
    config = given if isinstance(given, RunConfig) else load_config(Path(given), settings.overrides)
    if settings.max_usd is None:
        return config
    return config.model_copy(update={"teacher": config.teacher.model_copy(update={"max_usd": settings.max_usd})})


def load_task(config: RunConfig, *, skip_bad: bool = False) -> Task:
    """Reads every file the task names; ConfigError says what is wrong with one."""
    task = config.task
    dataset = load_prompts(task.prompts, skip_bad=skip_bad)
    skipped = dataset.skipped
    once = care.distinct(dataset.prompts, dataset.demonstrations)
    prompts = care.without_near(once) if task.near_duplicates == "remove" else once
    if task.validation is not None:
        held = load_prompts(task.validation, skip_bad=skip_bad)
        train, validation, skipped = prompts, held.prompts, skipped + held.skipped
    else:
        size = min(task.validation_size, max(1, len(prompts) // 5))
        train, validation = split(prompts, validation=size, seed=config.train.seed)
    if not train:
        raise ConfigError(f"`{task.prompts}` has too few prompts: one is needed to train on and one to validate on")
    test = validation
    if task.test is not None:
        held = load_prompts(task.test, skip_bad=skip_bad)
        test, skipped = held.prompts, skipped + held.skipped
    loaded = Task(
        train=train,
        validation=validation,
        test=test,
        demonstrations=dataset.demonstrations,
        verify=load_verifier(config),
        skipped=skipped,
        duplicates=dataset.duplicates + len(dataset.prompts) - len(once),
        near_left_out=len(once) - len(prompts),
        test_is_validation=task.test is None,
        prompts_file=task.prompts,
    )
    if loaded.test_seen_in_train and not task.allow_contamination:
        raise _contaminated("test", loaded.test_seen_in_train, len(test), task.test, task.prompts)
    if loaded.validation_seen_in_train and not task.allow_contamination:
        raise _contaminated(
            "validation", loaded.validation_seen_in_train, len(validation), task.validation, task.prompts
        )
    return loaded


def _contaminated(what: str, seen: int, count: int, file: Path | None, prompts: Path) -> ConfigError:
    return ConfigError(
        f"{seen} of the {count} {what} prompts in `{file}` also stand in the training prompts in `{prompts}`, so a "
        "score on them says nothing; take them out of one of the files, or set `task.allow_contamination = true`"
    )


def _seen(held: Sequence[Prompt], seen: Sequence[Prompt]) -> int:
    known = {care.conversation(prompt) for prompt in seen}
    return sum(care.conversation(prompt) in known for prompt in held)


def load_verifier(config: RunConfig) -> Verify:
    """The task's verifier; one that always abstains where it has none. ConfigError says what is wrong with it."""
    if config.task.verifier is None:
        return lambda prompt, answer: Abstain(reason="no verifier")
    return verify.load(config.task.verifier, base=Path(), reveal=config.task.reveal)


def verify_each(rollouts_P_G: Sequence[Sequence[Rollout]], verify: Verify) -> list[list[Verdict | Abstain]]:
    """What the verifier says of each rollout, (P, G); in threads, since it may wait for a program."""

    def judged(rollout: Rollout) -> Verdict | Abstain:
        return verify(rollout.prompt, rollout.completion)

    with ThreadPoolExecutor() as pool:
        found = pool.map(judged, itertools.chain(*rollouts_P_G))
        return [list(itertools.islice(found, len(rollouts_G))) for rollouts_G in rollouts_P_G]
