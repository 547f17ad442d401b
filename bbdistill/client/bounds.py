"""What a request may use, read from its body before it is sent."""

from bbdistill.client.values import Json

OUTPUT_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
BYTES_PER_TOKEN = 4
"""Of text in a language that a model was made for; a guess, where money needs a bound."""


def output_limit(body: Json) -> int | None:
    """Tokens that all answers to the request may have together; None where it sets no limit."""
    limits = [body[name] for name in OUTPUT_LIMITS if isinstance(body.get(name), int)]
    return max(limits) * (body.get("n") or 1) if limits else None
