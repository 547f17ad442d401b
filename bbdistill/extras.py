"""What `pip install 'bbdistill[train]'` brings, and what of it is missing here."""

from importlib.util import find_spec

INSTALL = "pip install 'bbdistill[train]'"
_NEEDED = ("torch", "transformers", "peft", "matplotlib")


def missing() -> str:
    """Names of packages, with commas; empty where a student can be trained. Imports none of them."""
    return ", ".join(name for name in _NEEDED if find_spec(name) is None)
