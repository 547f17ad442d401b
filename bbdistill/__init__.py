"""Turn a hosted LLM into a small model of your own; see README.md.

Importing this loads neither torch nor an SDK: each name is fetched from its module when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bbdistill.advisor.advise import advise
    from bbdistill.advisor.decide import Advice
    from bbdistill.client.edge import http_client, sync_http_client
    from bbdistill.errors import (
        BBDistillError,
        BudgetExceeded,
        Collapse,
        ConfigError,
        MissingExtraError,
        ReplayMiss,
        RunError,
        RunStopped,
        StoreError,
        TeacherError,
        VerifierError,
    )
    from bbdistill.recording import Recording, open_recording
    from bbdistill.runner import RunResult, arun, run
    from bbdistill.teacher.teacher import Teacher
    from bbdistill.types import Abstain, Correction, Demonstration, Fix, Preference, Prompt, Rollout, Tie, Verdict

__version__ = "0.1.0"

_HOME = {
    "advise": "advisor.advise",
    "Advice": "advisor.decide",
    "run": "runner",
    "arun": "runner",
    "RunResult": "runner",
    "Teacher": "teacher.teacher",
    "http_client": "client.edge",
    "sync_http_client": "client.edge",
    "open_recording": "recording",
    "Recording": "recording",
    **dict.fromkeys(
        ("Abstain", "Correction", "Demonstration", "Fix", "Preference", "Prompt", "Rollout", "Tie", "Verdict"), "types"
    ),
    **dict.fromkeys(
        (
            "BBDistillError",
            "BudgetExceeded",
            "Collapse",
            "ConfigError",
            "MissingExtraError",
            "ReplayMiss",
            "RunError",
            "RunStopped",
            "StoreError",
            "TeacherError",
            "VerifierError",
        ),
        "errors",
    ),
}

__all__ = [
    "Abstain",
    "Advice",
    "BBDistillError",
    "BudgetExceeded",
    "Collapse",
    "ConfigError",
    "Correction",
    "Demonstration",
    "Fix",
    "MissingExtraError",
    "Preference",
    "Prompt",
    "Recording",
    "ReplayMiss",
    "Rollout",
    "RunError",
    "RunResult",
    "RunStopped",
    "StoreError",
    "Teacher",
    "TeacherError",
    "Tie",
    "Verdict",
    "VerifierError",
    "advise",
    "arun",
    "http_client",
    "open_recording",
    "run",
    "sync_http_client",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module `bbdistill` has no attribute `{name}`")
    return getattr(import_module(f"bbdistill.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
