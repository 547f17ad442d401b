"""What a run is told: one frozen tree, read from a TOML file, checked at the door.

Order of precedence: `--set a.b=v`, the user's file, the recipe's own (`recipes/<recipe>.toml`), the defaults below.
An unknown key is an error with a suggestion. Relative paths are relative to the file that names them.
"""

import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from bbdistill.errors import ConfigError
from bbdistill.keylike import address_secret, keys_in, looks_like_key

Recipe = Literal["sft", "gad"]
CacheMode = Literal["auto", "record", "replay", "off"]
Table: TypeAlias = Mapping[str, Any]
_NEVER_SHOWN = ("api_key_env", "api_key_cmd", "base_url")


class Section(BaseModel):
    # Inputs stay out of pydantic's own messages: what stands where a key's name should be may be the key.
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, hide_input_in_errors=True
    )


class StudentConfig(Section):
    model: str
    """Hub id or local directory; `bundled` is the small model of the demo."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Of the frozen base; adapters are always float32."""
    lora_rank: int = Field(16, ge=1)
    lora_alpha: int = Field(32, ge=1)
    max_new_tokens: int = Field(512, ge=1)
    temperature: float = Field(1.0, gt=0)
    """Of training rollouts; evaluation is greedy."""
    top_p: float = Field(1.0, gt=0, le=1)


class PurposeCaps(Section):
    """Dollars; None = no cap of its own."""

    demonstrations: float | None = Field(None, gt=0)
    preferences: float | None = Field(None, gt=0)
    corrections: float | None = Field(None, gt=0)
    evaluation: float | None = Field(None, gt=0)


class ModelConfig(Section):
    """A hosted model and how it is asked: `[judge]`, and the greater part of `[teacher]`."""

    model: str
    """`provider:model`; providers are `openai` (and any compatible server) and `anthropic`."""
    base_url: str | None = None
    """None = the provider's own address."""
    api_key_env: str | None = None
    """Name of the environment variable with the key; None = the provider's usual one, if it is set."""
    api_key_cmd: str | None = None
    """Command that prints the key, such as a password manager's; run without a shell, for 10 seconds at most."""
    id: str | None = None
    """Name of this teacher inside request keys; None = the provider, or host:port of another server."""
    concurrency: int = Field(64, ge=1)
    """Calls at once, at most; from 32 up, as many as the server takes without throttling are found by trying."""
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    input_tokens_per_minute: int | None = Field(None, ge=1)
    output_tokens_per_minute: int | None = Field(None, ge=1)
    """Your rate limits, where the server does not tell them, or you want to stay below; what it tells is learned."""
    timeout_s: float = Field(600, gt=0)
    max_tokens: int = Field(1024, ge=1)
    """Output limit of one call."""
    temperature: float | None = None
    """None = not sent; current Claude models refuse it."""
    input_usd_per_mtok: float | None = Field(None, ge=0)
    output_usd_per_mtok: float | None = Field(None, ge=0)
    """Your own prices in dollars per million tokens, where the price table is wrong or does not know the model."""
    terms: str | None = None
    """What permits you to train on this model's answers, in your words; it goes into the report and the model card."""

    @property
    def prices(self) -> tuple[float, float] | None:
        """The user's own prices, if any: dollars per million tokens in and out."""
        if self.input_usd_per_mtok is None or self.output_usd_per_mtok is None:
            return None
        return self.input_usd_per_mtok, self.output_usd_per_mtok

    @field_validator("model")
    @classmethod
    def _provider_known(cls, model: str) -> str:
        provider, colon, name = model.partition(":")
        if not colon or not name or provider not in ("openai", "anthropic"):
            raise ValueError("expected `openai:MODEL` or `anthropic:MODEL`")
        return model

    @field_validator("api_key_env")
    @classmethod
    def _name_not_key(cls, name: str | None) -> str | None:
        if name is not None and not name.replace("_", "").isalnum():
            raise ValueError("expected the name of an environment variable, not the key itself")
        return name

    @field_validator("base_url")
    @classmethod
    def _no_secret_in_address(cls, address: str | None) -> str | None:
        if address is not None and not address.startswith(("http://", "https://")):
            raise ValueError("expected an address that begins with http:// or https://")
        if address is not None and address_secret(address):
            raise ValueError("expected an address without user, password or key; name the key in `api_key_env`")
        return address

    @model_validator(mode="after")
    def _both_prices(self) -> Self:
        if (self.input_usd_per_mtok is None) != (self.output_usd_per_mtok is None):
            raise ValueError("set `input_usd_per_mtok` and `output_usd_per_mtok` together, or neither")
        return self

    @model_validator(mode="after")
    def _one_source_of_the_key(self) -> Self:
        if self.api_key_env is not None and self.api_key_cmd is not None:
            raise ValueError("set `api_key_env` or `api_key_cmd`, not both")
        return self


class TeacherConfig(ModelConfig):
    cache: Path = Path("cache/teacher.db")
    """The store: every paid reply, plan and rollout."""
    max_usd: float | None = Field(None, gt=0)
    """Hard cap for one run, the judge's calls included; None = no cap."""
    max_usd_by: PurposeCaps = PurposeCaps()  # pyright: ignore[reportCallIssue]
    """Hard caps on one purpose each, beside that: `max_usd_by = { preferences = 2.0 }`."""


class TaskConfig(Section):
    prompts: Path
    test: Path | None = None
    validation: Path | None = None
    """None = carved from `prompts`."""
    validation_size: int = Field(24, ge=1)
    """At most this many prompts, and at most a fifth of them, are carved off."""
    verifier: str | tuple[str, ...] | None = None
    """`json_schema:FILE`, `fields`, or a list of both."""
    reveal: bool = False
    """Whether feedback may name the expected value; off, the teacher is told only which part is wrong and why."""
    templates: Path | None = None
    """Directory whose `*.md` replace the shipped teacher prompts of the same name."""


class TrainConfig(Section):
    steps: int = Field(20, ge=1)
    """Steps of the recipe's own loop, after its warm-up."""
    prompts_per_step: int = Field(8, ge=1)
    group_size: int = Field(4, ge=1)
    """Rollouts per prompt; advantages are centred within the group."""
    lag: int = Field(0, ge=0, le=4)
    """Rollouts of step t come from the policy of step max(0, t - lag); 0 is strictly on-policy."""
    learning_rate: float = Field(5e-4, gt=0)
    """Of supervised steps: `sft`, and the warm-up of `gad`."""
    policy_learning_rate: float = Field(5e-5, gt=0)
    """Of steps with a policy term."""
    sft_weight: float = Field(1.0, ge=0)
    """Weight of the supervised term beside the policy term."""
    kl_coef: float = Field(0.0, ge=0)
    """Weight of the penalty on moving away from the base model, nats per token; 0 = off."""
    max_grad_norm: float = Field(1.0, gt=0)
    warmup_max: int = Field(50, ge=0)
    """Supervised warm-up steps of `gad`, at most; it ends earlier once validation stops improving."""
    validate_every: int = Field(10, ge=1)
    """Warm-up steps between validations."""
    validate_policy_every: int = Field(2, ge=1)
    """Policy steps between validations."""
    checkpoint_every: int = Field(5, ge=1)
    seed: int = 0


class DiscriminatorConfig(Section):
    warmup_steps: int = Field(4, ge=0)
    """Steps that train the discriminator on the warmed-up student before its score is used as a reward."""
    learning_rate: float = Field(5e-4, gt=0)
    reward_weight: float = Field(1.0, ge=0)
    """Weight of the discriminator in the reward."""
    verifier_weight: float = Field(1.0, ge=0)
    """Weight of the verifier's score in the reward."""


class FeedbackConfig(Section):
    preferences: int = Field(8, ge=0)
    """Pairs of rollouts asked per policy step; each costs two calls, one per order."""
    corrections: int = Field(8, ge=0)
    """Rollouts corrected per policy step, the worst first."""
    max_abstain_rate: float = Field(0.5, gt=0, le=1)
    """A run stops when more than this share of at least 20 feedback calls gave nothing usable."""


class RunConfig(Section):
    recipe: Recipe
    student: StudentConfig | None = None
    teacher: TeacherConfig
    judge: ModelConfig | None = None
    """Who compares answers; None = the teacher. Its replies go into the teacher's store, under the teacher's cap."""
    task: TaskConfig
    train: TrainConfig = TrainConfig()  # pyright: ignore[reportCallIssue]
    discriminator: DiscriminatorConfig = DiscriminatorConfig()  # pyright: ignore[reportCallIssue]
    feedback: FeedbackConfig = FeedbackConfig()  # pyright: ignore[reportCallIssue]

    def require_student(self) -> StudentConfig:
        """The `[student]` table, which collecting needs not and training does."""
        if self.student is None:
            raise ConfigError('the config has no `[student]` table; add one with `model = "<hub id or directory>"`')
        return self.student

    @property
    def judge_config(self) -> TeacherConfig:
        """Who compares answers, with the store and the cap of the teacher."""
        if self.judge is None:
            return self.teacher
        shared = {"cache": self.teacher.cache, "max_usd": self.teacher.max_usd}
        return TeacherConfig.model_validate(self.judge.model_dump() | shared)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a run is made, apart from what its config says."""

    overrides: tuple[str, ...] = ()
    """`a.b=value`, as `--set`."""
    out: Path | None = None
    resume: bool = False
    overwrite: bool = False
    mode: CacheMode = "auto"
    replay: str | None = None
    """FILE or FILE#RUN."""
    max_usd: float | None = None
    skip_bad: bool = False
    batch: bool = False
    """Demonstrations and the teacher's evaluation through the provider's batch API."""

    def __post_init__(self) -> None:
        if self.batch and self.mode in ("record", "off"):
            raise ConfigError(f"--batch answers through the record, so it needs `--cache auto`, got `{self.mode}`")


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads `path` and applies `a.b=value` overrides. ConfigError says file, key, found and expected."""
    return parse_config(read_tables(path, overrides), where=str(path), base=path.parent)


def read_tables(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What the user wrote, overrides applied, nothing checked yet but that it is TOML."""
    if path.is_dir():
        raise ConfigError(f"`{path}` is a directory; give the TOML file of the run (or make one: `bbdistill init`)")
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no config at `{path}`; make one with `bbdistill init PROMPTS.jsonl`") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        raise ConfigError(f"`{path}` is not valid TOML: {fault}") from None
    for override in overrides:
        raw = _merge(raw, _parse_override(override))
    return raw


def parse_config(raw: Table, *, where: str, base: Path) -> RunConfig:
    """Checks a config tree; paths become absolute, relative ones taken from `base`."""
    recipe = raw.get("recipe")
    if not isinstance(recipe, str) or recipe not in get_args(Recipe):
        known = ", ".join(f'"{name}"' for name in get_args(Recipe))
        raise ConfigError(f"`{where}`: `recipe` must be one of {known}, got {json.dumps(recipe, default=str)}")
    for name in keys_in(raw):
        raise ConfigError(
            f"`{where}`: the value of `{name}` looks like a key, which no config may hold; "
            "put the name of an environment variable into `api_key_env` instead"
        )
    merged = _merge(recipe_defaults(recipe), raw)
    try:
        config = RunConfig.model_validate(merged)
    except ValidationError as fault:
        raise ConfigError(f"`{where}`: " + "; ".join(_explain(fault))) from None
    return _absolute(config, base.resolve())


def teacher_config(**values: Any) -> TeacherConfig:
    """A teacher that is given in code instead of a file. ConfigError says what is wrong."""
    try:
        return TeacherConfig(**values)
    except ValidationError as fault:
        raise ConfigError("; ".join(_explain(fault, TeacherConfig))) from None


def recipe_defaults(recipe: str) -> dict[str, Any]:
    """The table of `recipes/<recipe>.toml`."""
    return tomllib.loads((resources.files("bbdistill") / "recipes" / f"{recipe}.toml").read_text(encoding="utf-8"))


def dump_config(config: RunConfig) -> dict[str, Any]:
    """The resolved tree as JSON values, nulls kept; `parse_config` reads it back."""
    return config.model_dump(mode="json")


def _merge(under: Table, over: Table) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        mine = merged.get(key)
        both_tables = isinstance(mine, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(cast(Table, mine), cast(Table, value)) if both_tables else value
    return merged


def _parse_override(text: str) -> dict[str, Any]:
    path, equals, value = text.partition("=")
    if looks_like_key(text):
        raise ConfigError("a `--set` holds a key; give the name of an environment variable in `api_key_env` instead")
    if not equals or not path.strip():
        raise ConfigError(f"`--set {text}`: expected `section.key=value`, for example `--set train.steps=5`")
    try:
        parsed: Any = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value  # a bare word is a string, so that the shell needs no second pair of quotes
    tree: Any = parsed
    for key in reversed(path.strip().split(".")):
        tree = {key: tree}
    return tree


def _explain(fault: ValidationError, root: type[BaseModel] = RunConfig) -> Iterator[str]:
    for error in fault.errors():
        where = ".".join(str(part) for part in error["loc"])
        if error["type"] == "extra_forbidden":
            known = _known_keys(error["loc"][:-1], root)
            close = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
            hint = f"; did you mean `{close[0]}`?" if close else f"; known keys: {', '.join(known)}"
            yield f"unknown key `{where}`{hint}"
        elif error["type"] == "missing":
            yield f"`{where}` is required and missing"
        else:
            # What stands where a key's name should be may be the key itself; an address may hold one.
            shown = not where.endswith(_NEVER_SHOWN) and isinstance(error["input"], str | int | float | None)
            got = f", got {json.dumps(error['input'], default=str)[:80]}" if shown else ""
            yield f"`{where}`: {error['msg'].removeprefix('Value error, ')}{got}"


def _known_keys(location: tuple[int | str, ...], section: type[BaseModel]) -> list[str]:
    for part in location:
        candidates = [section.model_fields[str(part)].annotation, *get_args(section.model_fields[str(part)].annotation)]
        section = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(section.model_fields)


def _absolute(config: RunConfig, base: Path) -> RunConfig:
    def resolve(path: Path | None) -> Path | None:
        return None if path is None else base / path.expanduser()

    task = config.task
    verifier = task.verifier
    if verifier is not None:
        specs = (verifier,) if isinstance(verifier, str) else verifier
        verifier = tuple(_absolute_spec(spec, base) for spec in specs)
    return config.model_copy(
        update={
            "teacher": config.teacher.model_copy(update={"cache": resolve(config.teacher.cache)}),
            "student": config.student
            and config.student.model_copy(update={"model": _student_path(config.student, base)}),
            "task": task.model_copy(
                update={
                    "prompts": resolve(task.prompts),
                    "test": resolve(task.test),
                    "validation": resolve(task.validation),
                    "templates": resolve(task.templates),
                    "verifier": verifier,
                }
            ),
        }
    )


def _absolute_spec(spec: str, base: Path) -> str:
    name, colon, file = spec.partition(":")
    return f"{name}:{base / Path(file).expanduser()}" if colon else spec


def _student_path(student: StudentConfig, base: Path) -> str:
    # A hub id has the look of a relative path; only an existing directory is one.
    local = base / Path(student.model).expanduser()
    return str(local) if local.is_dir() else student.model
