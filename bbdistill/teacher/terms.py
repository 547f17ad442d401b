"""What the user says about training on a model's answers. Stated, never judged here: the licence is between them."""

from bbdistill.config import RunConfig
from bbdistill.config.models import ModelConfig

NOT_STATED = "not stated"
_HOSTS = ("api.openai.com", "api.anthropic.com")


def terms_of(config: ModelConfig) -> str:
    return config.terms or NOT_STATED


def notice(config: RunConfig) -> str | None:
    """A line for a run whose hosted models come without a statement; None where nothing is left to say."""
    models = [("teacher", config.teacher), *([("judge", config.judge)] if config.judge else [])]
    silent = [f"`{model.model}` ({table}.terms)" for table, model in models if _hosted(model) and not model.terms]
    if not silent:
        return None
    return (
        f"notice: nothing says what permits training on the answers of {' and '.join(silent)}; check the provider's "
        "terms and state it there, for the report and the model card"
    )


def _hosted(config: ModelConfig) -> bool:
    return config.base_url is None or any(host in config.base_url for host in _HOSTS)
