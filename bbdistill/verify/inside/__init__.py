"""What runs inside the sandbox of `python_tests`: the standard library alone, and nothing of the rest of the package.

Two processes, each confined by itself and joined by a socket: `program` has the judged code, `tests` has the tests.
What the judged code returns crosses as data and is compared on the other side: it never shares a process with what it
is held against, nor with the report of how that went.
"""
