"""A teacher that weighs its requests instead of sending them: each is made as it would be sent, and goes nowhere."""

from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bbdistill.client import keys
from bbdistill.client.budget import provider_of
from bbdistill.client.call import Call, Reply
from bbdistill.config.models import TeacherConfig
from bbdistill.errors import ReplayMiss
from bbdistill.teacher.connect import connect_to
from bbdistill.teacher.teacher import Teacher


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """One request: its key in the store, its bytes, its template, and who would be paid for it."""

    key: str
    size: int
    template: str
    provider: str
    """As the price table names it."""


class Scale:
    """Stands where the network would be. `teacher` has the usual verbs; what they ask is weighed, not answered."""

    def __init__(
        self, config: TeacherConfig, *, templates: Path | None, answer_options: Mapping[str, Any] | None = None
    ) -> None:
        self._id = config.id
        self._weighed: list[Weight] = []
        connection = connect_to(self, config)
        self.teacher = Teacher.from_config(
            config, templates=templates, answer_options=answer_options, connection=connection
        )

    async def __call__(self, call: Call, /) -> Reply:
        key = keys.key(keys.canonical(call, self._id))
        template = call.tags.get("template", "")
        self._weighed.append(Weight(key=key, size=len(call.body), template=template, provider=provider_of(call)))
        raise ReplayMiss("the request was weighed and not sent")

    async def weigh(self, ask: Coroutine[Any, Any, object]) -> Weight:
        """The last request that `ask`, a verb of `teacher`, came to."""
        with suppress(ReplayMiss):
            await ask
        return self._weighed[-1]
