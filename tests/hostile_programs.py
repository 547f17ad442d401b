"""Programs that try to get out, to stay, to break the host, or to pass without an answer. Not a test itself.

Each is run against `TESTS`. `{marks}` in one stands for a file of the host that it should neither read nor change,
`{port}` for a server of the host. Beside each stands what the feedback must say.
"""

HANGS = {
    *("sleep", "sleep in a test", "busy", "deaf to signals", "storm of alarms", "deep recursion", "endless items"),
    *("always equal", "always equal, by class"),
}
"""These are stopped by the wall limit."""

TESTS = """
assert secret(3) == 7355608
assert abs(ratio(3) - 0.12751) < 1e-9
assert word(3).startswith("zebu")
assert 4099 in numbers(3)
assert table(3)["a"] > 17
assert all(flag(i) == (i % 3 == 1) for i in range(6))
"""

FUNCTIONS = ("secret", "ratio", "word", "numbers", "table", "flag")
ALL_GIVE = "\n".join(f"def {name}(x): return give(x)" for name in FUNCTIONS)

PROGRAMS: dict[str, tuple[str, str]] = {
    # Staying, or taking all there is
    "fork bomb": ("import os\nwhile True: os.fork()", "PermissionError"),
    "fork by hand": ("import ctypes\nassert ctypes.CDLL(None).syscall(57) >= 0", "AssertionError"),
    "clone3 by hand": (
        "import ctypes\nargs = (ctypes.c_uint64 * 11)()\n"
        "assert ctypes.CDLL(None).syscall(435, args, ctypes.c_size_t(88)) >= 0",
        "AssertionError",
    ),
    "thread bomb": (
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(99,), daemon=True).start()",
        "can't start new thread",
    ),
    "daemon by double fork": (
        "import os\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        while True: pass",
        "PermissionError",
    ),
    "own session": ("import os\nos.setsid()", "PermissionError"),
    "other program": ("import os\nos.execv('/bin/sh', ['sh', '-c', 'sleep 99 &'])", "PermissionError"),
    "subprocess": ("import subprocess\nsubprocess.Popen(['sleep', '99'])", "PermissionError"),
    "pool of processes": ("import multiprocessing\nmultiprocessing.Pool(4)", "Error"),
    "endless output": ("while True: print('x' * 10_000)", "it printed more than 1 MB"),
    "endless errors": ("import sys\nwhile True: sys.stderr.write('x' * 10_000)", "it printed more than 1 MB"),
    "memory at once": ("x = bytearray(10**11)", "MemoryError"),
    "memory bit by bit": ("x = []\nwhile True: x.append(bytearray(10**7))", "MemoryError"),
    "mapped memory": ("import mmap\nx = [mmap.mmap(-1, 2**28) for _ in range(99)]", "Cannot allocate memory"),
    "memory without a name": ("import os\nos.memfd_create('x')", "PermissionError"),
    "memory that stays": ("import ctypes\nassert ctypes.CDLL(None).shmget(4711, 4096, 0o1666) >= 0", "AssertionError"),
    "sleep": ("import time\ntime.sleep(99)", "it did not end within 1 s"),
    "sleep in a test": (
        "import time\ndef secret(x): time.sleep(99)",
        "test 1: the program was stopped: it did not end",
    ),
    "busy": ("while True: pass", "it did not end within 1 s"),
    "deaf to signals": (
        "import signal\nfor s in set(signal.Signals) - {9, 19}: signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
        "it did not end within 1 s",
    ),
    "storm of alarms": (
        "import signal, time\nsignal.signal(signal.SIGALRM, lambda *_: None)\n"
        "signal.setitimer(signal.ITIMER_REAL, 1e-5, 1e-5)\ntime.sleep(99)",
        "it did not end within 1 s",
    ),
    "no end of its thread": (
        "import threading\ndef run():\n    while True: pass\nthreading.Thread(target=run).start()",
        "the answer does not define `secret`",
    ),
    "deep recursion": (
        "import sys\nsys.setrecursionlimit(10**9)\ndef secret(x): return secret(x) + 1\nsecret(1)",
        "",
    ),
    "deep answer": (
        "def secret(x):\n    y = []\n    for _ in range(10**5): y = [y]\n    return y",
        "nested too deeply",
    ),
    "endless answer": ("x = []\nx.append(x)\ndef secret(_): return x", "nested too deeply"),
    "huge number": ("def secret(x): return 1 << 10**10", "MemoryError"),
    "huge number to compare": ("def secret(x): return 1 << 10**7", "<int of 10000001 bits>"),
    "huge answer": ("def secret(x): return 'x' * 10**8", "larger than 4 MB"),
    "endless items": (
        "def numbers(x):\n    while True: yield 1",
        "test 4: the program was stopped: it did not end within 1 s",
    ),
    "huge file": ("with open('x', 'wb') as file:\n    while True: file.write(bytes(10**6))", "File too large"),
    "many files": (
        "for i in range(10**9):\n    with open(f'{i}', 'wb') as file: file.write(bytes(10**4))",
        "it wrote more than",
    ),
    "deep directories": (
        "import os\nfor _ in range(900):\n    os.mkdir('d')\n    os.chdir('d')\nraise SystemExit",
        "SystemExit",
    ),
    "locked directories": ("import os\nos.mkdir('d')\nos.mkdir('d/e')\nos.chmod('d', 0)", "PermissionError"),
    # The host
    "closed files": ("import os\nos.closerange(0, 256)", "it "),
    "kill the parent": ("import os\nos.kill(os.getppid(), 9)", "PermissionError"),
    "kill everybody": ("import os\nos.kill(-1, 9)", "PermissionError"),
    "kill the group": ("import os\nos.killpg(0, 9)", "PermissionError"),
    "kill through a file": (
        "import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, 10, 9)\nfcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())\n"
        "fcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC)\nos.write(w, b'x')",
        "PermissionError",
    ),
    "kill through a socket": (
        "import fcntl, os, socket, struct\na, b = socket.socketpair()\n"
        "fcntl.ioctl(a, 0x8901, struct.pack('i', os.getppid()))",
        "PermissionError",
    ),
    "limits of the parent": (
        "import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (3, 3))",
        "PermissionError",
    ),
    "trace the parent": (
        "import ctypes, os\nassert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0",
        "AssertionError",
    ),
    "memory of the parent": ("import os\nopen(f'/proc/{os.getppid()}/mem', 'r+b')", "Error"),
    "keys of the parent": ("import os\nopen(f'/proc/{os.getppid()}/environ').read()", "Error"),
    "network": ("import socket\nsocket.create_connection(('127.0.0.1', {port}))", "PermissionError"),
    "network by other means": (
        "import ctypes\nassert ctypes.CDLL(None).syscall(425, 8, bytes(120)) >= 0",
        "AssertionError",
    ),
    "new namespace": ("import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0", "AssertionError"),
    "mount": ("import ctypes\nassert ctypes.CDLL(None).mount(b'/', b'/tmp', None, 4096, None) == 0", "AssertionError"),
    "read a file": ("print(open({marks!r}).read())", "Error"),
    "write a file": ("open({marks!r}, 'w').write('x')", "Error"),
    "remove a file": ("import os\nos.remove({marks!r})", "Error"),
    "write elsewhere": ("open('/usr/x', 'w')", "Error"),
    "link to a file": (
        "import os\nos.symlink({marks!r}, 'x')\nos.symlink(os.path.dirname({marks!r}), 'y')\nopen('x', 'a')",
        "Error",
    ),
    # The verdict
    "exit": ("raise SystemExit(0)", "SystemExit"),
    "exit at once": ("import os\nos._exit(0)", "it ended itself, with exit code 0"),
    "exit in a test": ("import os\ndef secret(x): os._exit(0)", "in `secret(3)`: it ended itself, with exit code 0"),
    "abort": ("import signal\nsignal.raise_signal(11)", ""),
    "forged report": (
        "import json, os\n"
        "for fd in range(64):\n"
        "    for row in [*({'test': f'test {i}', 'passed': True} for i in range(9)), {'done': True}]:\n"
        "        try: os.write(fd, json.dumps(row).encode() + b'\\n')\n"
        "        except OSError: pass",
        "",
    ),
    "forged frames": (
        "import json, os, struct\n"
        "body = json.dumps(['ok', True, None]).encode()\n"
        "for fd in range(3, 64):\n"
        "    for _ in range(50):\n"
        "        try: os.write(fd, struct.pack('!I', len(body)) + body)\n"
        "        except OSError: pass",
        "",
    ),
    "garbled frames": (
        "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'\\0\\0\\0\\5[[[[[')\n    except OSError: pass",
        "",
    ),
    "endless frame": (
        "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'\\xff\\xff\\xff\\xff')\n    except OSError: pass",
        "",
    ),
    "own protocol": (
        "import sys\nprogram = sys.modules['inside.program']\n"
        "program.Program._answer = lambda *_: ['ok', ['r', 1, 'class', ['X']], None]",
        "",
    ),
    "other builtins": (
        "import sys\n"
        "program = sys.modules['inside.program']\n"
        "encode, always = program.encode, lambda *_: True\n"
        "forged = {name: always for name in ('abs', 'all', 'any', 'range', 'AssertionError')}\n"
        "def put_in(value, export):\n"
        "    names = isinstance(value, dict) and 'completion' in value\n"
        "    return encode({**value, **forged, '__builtins__': forged} if names else value, export)\n"
        "program.encode = put_in\n" + "def give(x): return 0\n" + ALL_GIVE,
        "test 1: `secret(3)` gave 0.",
    ),
    "everything patched": (
        "import builtins, sys\n"
        "builtins.AssertionError = type('Silent', (BaseException,), {})\n"
        "for name in ('abs', 'all', 'any', 'isinstance', 'range'): setattr(builtins, name, lambda *_: True)\n"
        "sys.settrace(lambda *_: None)",
        "",
    ),
    "names of Python": (
        "def abs(x): return 0\ndef all(x): return True\ndef range(x): return []\ndef isinstance(*_): return True\n"
        "def give(x): return 0\n" + ALL_GIVE,
        "test 1: `secret(3)` gave 0.",
    ),
    "always equal": (
        "class Any:\n"
        "    def yes(self, *_): return True\n"
        "    __eq__ = __ne__ = __lt__ = __gt__ = __le__ = __ge__ = __contains__ = __bool__ = yes\n"
        "    def same(self, *_): return self\n"
        "    __sub__ = __rsub__ = __add__ = __abs__ = __getitem__ = __call__ = same\n"
        "    def __getattr__(self, name): return self.yes\n"
        "def give(x): return Any()\n" + ALL_GIVE,
        "test 1: `secret(3)` gave <Any object>.",
    ),
    "always equal, by class": (
        "class Any:\n"
        "    def __eq__(self, other): return True\n"
        "    def __sub__(self, other): return 0.0\n"
        "    def __contains__(self, other): return True\n"
        "    def __getitem__(self, other): return 10**9\n"
        "    def startswith(self, other): return True\n"
        "    def __init__(self, *_): pass\n" + "\n".join(f"{name} = Any" for name in FUNCTIONS),
        "test 1: `secret(3)` gave <Any object>.",
    ),
    "always equal number": (
        "class Number(float):\n"
        "    def __eq__(self, other): return True\n"
        "    def __sub__(self, other): return 0.0\n"
        "    def __float__(self): return 0.12751\n"
        "class Text(str):\n"
        "    def startswith(self, other): return True\n"
        "class Items(list):\n"
        "    def __contains__(self, other): return True\n"
        "class Table(dict):\n"
        "    def __getitem__(self, other): return 10**9\n"
        "def secret(x): return Number(1)\n"
        "ratio = secret\n"
        "def word(x): return Text('x')\n"
        "def numbers(x): return Items()\n"
        "def table(x): return Table(a=1)",
        "test 1: `secret(3)` gave 1.0.",
    ),
    "search of frames and memory": (
        "import gc, sys\n"
        "def give(x):\n"
        "    frame, found = sys._getframe(), []\n"
        "    while frame is not None:\n"
        "        found += [*frame.f_locals.values(), *frame.f_globals.values()]\n"
        "        frame = frame.f_back\n"
        "    mark = ''.join(('735', '5608'))\n"
        "    for thing in [*found, *gc.get_objects()]:\n"
        "        for one in (thing, *(thing if isinstance(thing, (list, tuple)) else ())):\n"
        "            if isinstance(one, int) and one ^ 4660 == 7352044: return one\n"
        "            if isinstance(one, str) and mark in one: return int(mark)\n" + ALL_GIVE,
        "test 1: `secret(3)` gave None.",
    ),
    "search of files": (
        "import os\n"
        "def give(x):\n"
        "    mark = ''.join(('735', '5608'))\n"
        "    for root in ('.', '..', '/tmp', '/proc/self', '/proc', {marks!r}):\n"
        "        for folder, _, files in os.walk(root):\n"
        "            for name in files[:99]:\n"
        "                try:\n"
        "                    if mark in open(os.path.join(folder, name)).read(10**6): return int(mark)\n"
        "                except Exception: pass\n" + ALL_GIVE,
        "test 1: `secret(3)` gave None.",
    ),
    "fault with a life of its own": (
        "class Fault(BaseException):\n"
        "    def __str__(self): raise self\n"
        "    args = property(lambda self: 1 / 0)\n"
        "def give(x): raise Fault\n" + ALL_GIVE,
        "test 1: `secret(3)` raised Fault",
    ),
}
