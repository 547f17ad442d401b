"""Keeps secrets out of what the HTTP library and the SDKs log, at whatever level someone turned their logs on."""

import logging

from bbdistill.client.secrets import redact_line

_LOGGERS = (
    "httpx2",
    *(f"httpcore2.{part}" for part in ("connection", "http11", "http2", "proxy", "socks")),
    "openai._base_client",
    "anthropic._base_client",
)
"""A filter counts for the records of its own logger alone, not for those of the loggers below it."""


class _Redacting(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact_line(record.getMessage()), None
        if record.exc_info:
            # Formatters take this text where it is set, instead of writing the exception out themselves.
            record.exc_text = redact_line(logging.Formatter().formatException(record.exc_info))
        return True


_FILTER = _Redacting()


def redact_logs() -> None:
    """From now on, and however often it is called."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_FILTER)
