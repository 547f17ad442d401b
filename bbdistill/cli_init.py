"""The command line's `init`: a first config for one's own data, or a built-in example."""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from bbdistill.cli_options import Recipe, refuse, say, stoppable
from bbdistill.errors import ConfigError


def init(
    prompts: Annotated[
        Path | None,
        typer.Argument(
            help="JSONL with your prompts; with `--example search`, a folder of documents.",
            metavar="PROMPTS|FOLDER",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where to write the config; of an example, its directory.",
            show_default="task.toml, or examples/<name>",
        ),
    ] = None,
    test: Annotated[Path | None, typer.Option(help="JSONL with held-out prompts.")] = None,
    schema: Annotated[Path | None, typer.Option(help="JSON schema that answers must fit.")] = None,
    teacher: Annotated[str | None, typer.Option(help="provider:model", show_default="openai:gpt-5.6")] = None,
    base_url: Annotated[str | None, typer.Option(help="Another OpenAI-compatible server.")] = None,
    student: Annotated[
        str | None, typer.Option(help="Hub id or directory.", show_default="HuggingFaceTB/SmolLM2-135M-Instruct")
    ] = None,
    recipe: Annotated[Recipe | None, typer.Option(help="Training recipe.", show_default="sft")] = None,
    example: Annotated[
        Literal["search", "code"] | None,
        typer.Option(help="A built-in task instead: search queries for documents, or Python functions with tests."),
    ] = None,
    max_usd: Annotated[
        float | None, typer.Option(help="With `--example search`: hard cap for the questions, in dollars.")
    ] = None,
    replay: Annotated[
        str | None,
        typer.Option(help="With `--example search`: take the questions from this record.", metavar="FILE[#RUN]"),
    ] = None,
) -> None:
    """Write a commented task.toml that fits your data, or a whole built-in example."""
    next_step = "--dry-run"
    if example is not None:
        own = {"--test": test, "--schema": schema, "--student": student, "--recipe": recipe}
        refuse(own, f"with --example {example}")
    if example == "search":
        from bbdistill.examples.search import RECORDING, write_search

        asked = {"teacher": teacher, "base_url": base_url, "max_usd": max_usd, "replay": replay}
        config = stoppable(partial(write_search, out or Path("examples/search"), folder=prompts, **asked))
        next_step = f"--replay {config.with_name(RECORDING)}" if teacher is None else next_step
    elif example == "code":
        from bbdistill.examples.code import write_code

        refuse({"a folder": prompts, "--max-usd": max_usd, "--replay": replay}, "with --example code")
        config = write_code(out or Path("examples/code"), teacher=teacher, base_url=base_url)
    else:
        from bbdistill.starter import write_task

        refuse({"--max-usd": max_usd, "--replay": replay}, "without --example search")
        if prompts is None:
            raise ConfigError("nothing to begin with: give the JSONL file of your prompts, or --example search or code")
        config = out or Path("task.toml")
        chosen = {"teacher": teacher, "student": student, "recipe": recipe}
        given = {name: value for name, value in chosen.items() if value is not None}
        write_task(prompts, config, test=test, schema=schema, base_url=base_url, **given)
    print(config)
    say(f"next: bbdistill run {config} {next_step}")
