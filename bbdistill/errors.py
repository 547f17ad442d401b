"""Every error a caller can meet; each message is one sentence: what, where, got/expected, next action.

    BBDistillError                 exit 1
    ├── ConfigError                exit 2   config, data or command line is wrong; nothing was spent
    ├── MissingExtraError          exit 2   a command needs torch, which is not installed
    ├── BudgetExceeded             exit 3   the dollar cap is reached; everything so far is kept
    ├── ReplayMiss                 exit 4   a replay asked for something that was never recorded
    ├── TeacherError               exit 1   the teacher cannot be used at all (key, quota, address)
    ├── StoreError                 exit 1   the record cannot be written or read
    ├── VerifierError              exit 1   a verifier is broken itself: a user's own function, or the sandbox
    ├── RunError                   exit 1   a run directory or checkpoint is not what it should be
    │   └── Collapse               exit 1   a monitor found that training destroys the student; the best one is kept
    └── RunStopped                 exit 130 the caller asked a run to stop; everything so far is kept

A reply that cannot be used is not an error: it is an `Abstain` (see `types.py`), counted and masked.
"""

AFRESH = "start again with another --out: replies that are stored are not paid for twice"
"""The next action where a resume would be refused, since the config has to change."""


class BBDistillError(Exception):
    """Base of every error raised on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class ConfigError(BBDistillError, ValueError):
    exit_code = 2


class MissingExtraError(BBDistillError, ImportError):
    exit_code = 2


class BudgetExceeded(BBDistillError):
    exit_code = 3


class ReplayMiss(BBDistillError, LookupError):
    exit_code = 4


class TeacherError(BBDistillError):
    pass


class StoreError(BBDistillError):
    pass


class VerifierError(BBDistillError):
    pass


class RunError(BBDistillError):
    pass


class Collapse(RunError):
    pass


class RunStopped(BBDistillError):
    exit_code = 130
