"""The models of a run: the student, and those that are asked. Tables `[student]`, `[teacher]` and `[judge]`."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from bbdistill.config.section import Section
from bbdistill.keylike import address_secret


class StudentConfig(Section):
    model: str
    """Hub id or local directory; `bundled` is the small model of the demo."""
    adapter: Path | None = None
    """Adapter of an earlier run that training goes on from; it must have the same rank and alpha. None = a new one."""
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
    rubric: float | None = Field(None, gt=0)
    coaching: float | None = Field(None, gt=0)
    scores: float | None = Field(None, gt=0)
    evaluation: float | None = Field(None, gt=0)


class ModelConfig(Section):
    """A hosted model and how it is asked: `[judge]`, and the greater part of `[teacher]`."""

    model: str
    """`provider:model`; providers are `openai` (and any compatible server) and `anthropic`.

    Of `[teacher]` also `local:PATH`: a model in this process, a hub id, a directory, or an adapter of an earlier run.
    """
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
    """None = not sent; current Claude models refuse it. A local teacher is then greedy."""
    input_usd_per_mtok: float | None = Field(None, ge=0)
    output_usd_per_mtok: float | None = Field(None, ge=0)
    """Your own prices in dollars per million tokens, where the price table is wrong or does not know the model."""
    terms: str | None = None
    """What permits you to train on this model's answers, in your words; it goes into the report and the model card."""

    @property
    def prices(self) -> tuple[float, float] | None:
        """The user's own prices, if any: dollars per million tokens in and out. A model in this process is free."""
        if self.is_local:
            return 0.0, 0.0
        if self.input_usd_per_mtok is None or self.output_usd_per_mtok is None:
            return None
        return self.input_usd_per_mtok, self.output_usd_per_mtok

    @property
    def model_name(self) -> str:
        """Without the provider."""
        return self.model.partition(":")[2]

    @property
    def is_local(self) -> bool:
        """Whether it is a model in this process."""
        return self.model.startswith("local:")

    @property
    def gives_log_probs(self) -> bool | None:
        """Whether it says how likely it finds a given text, token by token; None = that is up to the server."""
        return {"local": True, "anthropic": False}.get(self.model.partition(":")[0])

    @field_validator("model")
    @classmethod
    def _provider_known(cls, model: str) -> str:
        provider, colon, name = model.partition(":")
        if not colon or not name or provider not in ("openai", "anthropic", "local"):
            raise ValueError("expected `openai:MODEL`, `anthropic:MODEL` or `local:PATH`")
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
    max_usd: float | None = Field(None, ge=0)
    """Hard cap for one run, the judge's calls included; None = no cap, 0 = only what is stored or free."""
    max_usd_by: PurposeCaps = PurposeCaps()  # pyright: ignore[reportCallIssue]
    """Hard caps on one purpose each, beside that: `max_usd_by = { preferences = 2.0 }`."""
