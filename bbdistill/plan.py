"""The plan of a run is data: what was decided is written to the store before it is acted on, and never decided again.

A resumed run finds its own decisions; a replayed run executes those of the run it replays. No torch, no network.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bbdistill.client.store import Store
from bbdistill.errors import ReplayMiss
from bbdistill.types import Prompt, Rollout

Decision = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Decisions and rollouts of one run. `store` is None where nothing is kept (`--cache off`)."""

    store: Store | None
    run: str
    """The run that decides: this one, or the one being replayed."""
    replaying: bool

    def decide(self, step: int, name: str, make: Callable[[], Decision]) -> Decision:
        """What was decided under this name, or `make()`, committed before it is returned."""
        if self.store is None:
            return make()
        made = self.store.plan(self.run, step, name)
        if made is None:
            self._must_be_recorded(f"decision `{name}` of step {step}")
            made = make()
            self.store.commit_plan(self.run, step, name, made)
        return made

    def rollouts(
        self, step: int, prompts: Sequence[Prompt], group_size: int, sample: Callable[[], list[list[Rollout]]]
    ) -> list[list[Rollout]]:
        """The step's rollouts of these prompts, (P, G): the stored ones, or `sample()`, committed as one."""
        if not prompts or group_size == 0:
            return []
        if self.store is None:
            return sample()
        found = {(row.prompt_id, row.sample): row for row in self.store.rollouts(self.run, step)}
        wanted = [[(prompt.id, g) for g in range(group_size)] for prompt in prompts]
        if not any(place in found for places in wanted for place in places):
            self._must_be_recorded(f"rollouts of step {step}")
            made = sample()
            self.store.put_rollouts(self.run, step, [rollout for rollouts_G in made for rollout in rollouts_G])
            return made
        try:
            return [
                [found[place].rollout(prompt) for place in places]
                for prompt, places in zip(prompts, wanted, strict=True)
            ]
        except KeyError as missing:
            raise ReplayMiss(
                f"the recorded rollouts of step {step} lack prompt and sample {missing.args[0]}; "
                "replay with the config and prompts of the recorded run"
            ) from None

    def recorded_config(self) -> Mapping[str, Any]:
        """That of the run being replayed; empty where none is, or its record does not say."""
        for row in self.store.runs() if self.store is not None and self.replaying else ():
            if row.id == self.run:
                return row.config.get("config", {})
        return {}

    def finished(self) -> None:
        """Notes in the store that the run came to its end."""
        if self.store is not None and not self.replaying:
            self.store.finish_run(self.run)

    def _must_be_recorded(self, what: str) -> None:
        if self.replaying:
            raise ReplayMiss(
                f"run `{self.run}` has no recorded {what}; it stopped earlier, or was made with another config. "
                "Replay with that run's own config, or run live with `--cache auto`"
            )
