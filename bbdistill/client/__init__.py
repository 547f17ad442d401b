"""The HTTP client with record and replay that goes under any SDK. Knows nothing of distillation, and loads no SDK."""
