"""Where a key comes from: an environment variable, or a command. It is given to the SDK and kept nowhere else."""

import os
import shlex
import subprocess

from bbdistill.config.models import ModelConfig
from bbdistill.errors import ConfigError
from bbdistill.teacher import anthropic, openai

_USUAL = {"openai": openai.KEY_ENV, "anthropic": anthropic.KEY_ENV}
_COMMAND_S = 10.0


def key_of(config: ModelConfig) -> str:
    """The key of a model. ConfigError where there is none; it never shows what a command printed."""
    if config.is_local:
        return "none"
    if config.api_key_cmd is not None:
        return _printed(config.api_key_cmd)
    provider, _, _ = config.model.partition(":")
    variable = config.api_key_env or _USUAL[provider]
    key = os.environ.get(variable, "").strip()
    if key:
        return key
    if config.base_url is not None and config.api_key_env is None:
        return "none"  # a server of one's own; the SDKs insist on some text
    raise ConfigError(f"no key for `{config.model}`: set the environment variable `{variable}`, or `api_key_env`")


def _printed(command: str) -> str:
    try:
        words = shlex.split(command)
        # The command may ask for a password: what it says goes to the terminal, and only its answer comes here.
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, timeout=_COMMAND_S, check=True)
    except (OSError, ValueError, IndexError, subprocess.SubprocessError) as fault:
        raise ConfigError(f"`api_key_cmd` failed ({_why(fault)}); it must print the key and exit with 0") from None
    lines = done.stdout.split()
    if len(lines) != 1:
        raise ConfigError(f"`api_key_cmd` printed {len(lines)} words; it must print the key and nothing else")
    return lines[0]


def _why(fault: Exception) -> str:
    """Without the command line, which an exception of `subprocess` repeats."""
    match fault:
        case subprocess.CalledProcessError():
            return f"exit code {fault.returncode}"
        case subprocess.TimeoutExpired():
            return f"no answer within {_COMMAND_S:.0f} s"
        case OSError():
            return fault.strerror or "cannot be started"
        case _:
            return "not a command line"
