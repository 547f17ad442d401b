"""Teacher prompts as data: `prompts/*.md` with front matter, rendered by sandboxed jinja2, one message per heading.

A heading `# system`, `# user` or `# assistant` starts a message; `# conversation` stands for the prompt's own messages,
unchanged. Headings are found before rendering, so that nothing inside a user's data can start a message.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import frontmatter  # pyright: ignore[reportMissingTypeStubs]
from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from bbdistill.errors import ConfigError
from bbdistill.types import Message

_HEADING = re.compile(r"^# (system|user|assistant|conversation)[ \t]*$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """One teacher prompt. `hash` is the sha256 of the file's text and is written into every call's row."""

    name: str
    hash: str
    parts: tuple[tuple[str, str], ...]
    """(role, template source) in order; the source of `conversation` is empty."""

    @property
    def label(self) -> str:
        return f"{self.name}@{self.hash[:12]}"

    def render(self, conversation: Sequence[Message], variables: Mapping[str, Any]) -> tuple[Message, ...]:
        """The messages to send. System texts, the template's and the conversation's, become one leading message."""
        messages: list[Message] = []
        for role, source in self.parts:
            if role == "conversation":
                messages.extend(conversation)
            else:
                messages.append({"role": role, "content": self._fill(source, variables)})
        systems = [str(message["content"]) for message in messages if message["role"] == "system"]
        rest = [message for message in messages if message["role"] != "system"]
        return (*([{"role": "system", "content": "\n\n".join(systems)}] if systems else []), *rest)

    def _fill(self, source: str, variables: Mapping[str, Any]) -> str:
        try:
            return _environment().from_string(source).render(variables).strip()
        except TemplateError as fault:
            raise ConfigError(f"teacher prompt `{self.name}.md` does not render: {fault}") from None


def load_template(name: str, override: Path | None = None) -> Template:
    """The template `name`: from the user's directory if it has `<name>.md`, else the shipped one.

    ConfigError where the directory replaces no template at all.
    """
    if override is not None and not any((shipped("prompts") / file.name).is_file() for file in override.glob("*.md")):
        known = ", ".join(sorted(f"`{file.name}`" for file in shipped("prompts").glob("*.md")))
        raise ConfigError(f"`task.templates`: `{override}` is not a directory with one of {known}")
    for directory in [*([override] if override else []), shipped("prompts")]:
        file = directory / f"{name}.md"
        if file.is_file():
            return parse_template(name, file.read_text(encoding="utf-8"))
    raise ConfigError(f"no teacher prompt `{name}.md` in `{override or shipped('prompts')}`")


def parse_template(name: str, text: str) -> Template:
    """Splits the text at its role headings."""
    body = str(frontmatter.loads(text).content)  # pyright: ignore[reportUnknownMemberType]
    pieces = _HEADING.split(body)
    if pieces[0].strip() or len(pieces) < 3:
        raise ConfigError(f"teacher prompt `{name}.md` must start with `# system`, `# user` or `# conversation`")
    parts = tuple(zip(pieces[1::2], pieces[2::2], strict=True))
    return Template(name=name, hash=hashlib.sha256(text.encode()).hexdigest(), parts=parts)


def shipped(name: str) -> Path:
    """A directory that travels with the package: inside it when installed, beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / name
    return installed if installed.exists() else package.parent / name


@cache
def _environment() -> SandboxedEnvironment:
    return SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
