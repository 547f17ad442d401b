"""Gives up, for good, what a judged program must not have. Linux on x86-64 or ARM64, any user, no special rights.

Four layers of the kernel: no capabilities; resource limits; Landlock (Linux 5.13 or newer) for files; and a filter on
system calls: no new process or program, no signal or limit for another process, no leaving the group, no socket, no
memory that outlives the process, no tracing. With no second process, the limits of one are the limits of all.
"""

import ctypes
import os
import platform
import resource
import struct
from collections.abc import Iterable, Mapping
from typing import Any

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""Where the filter can be made, by its name for the architecture."""

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38

# The number of each call on x86-64 and on ARM64; None = not there.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "socket": (41, 198),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    # A directory that its owner may not enter cannot be removed by him either.
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
}
_CLONE, _CLONE3 = (56, 220), (435, 435)
_PRLIMIT, _FCNTL, _IOCTL, _PRCTL = (302, 261), (72, 25), (16, 29), (157, 167)
_CLONE_THREAD = 0x10000
_SET_OWNER = (8, 10, 15)
"""F_SETOWN, F_SETSIG, F_SETOWN_EX: with them the kernel sends any signal to any process of the same user."""
_SET_OWNER_IOCTL = (0x8901, 0x8902)

_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_EPERM, _ENOSYS = 0x00050000 | 1, 0x00050000 | 38
_ARG_0, _ARG_1 = 16, 24


class CannotConfine(Exception):
    """The message says which layer the kernel refused."""


def confine(limits: Mapping[str, Any]) -> None:
    """Applies all layers to this process, which must have one thread. CannotConfine if one is refused.

    `limits`: `memory`, `file` in bytes, `cpu` in seconds, `readable` and `writable`, lists of paths.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    _checked("the parent-death signal", libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0))
    _checked("no new privileges", libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _checked("dropping capabilities", libc.capset(struct.pack("Ii", 0x20080522, 0), bytes(24)))
    _limit(limits)
    _landlock(libc, limits["readable"], limits["writable"])
    code = _filter(platform.machine())
    program = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HP", len(code) // 8, ctypes.addressof(program))
    _checked("the filter on system calls", libc.prctl(_PR_SET_SECCOMP, 2, header, 0, 0))


def _limit(limits: Mapping[str, Any]) -> None:
    cpu = int(limits["cpu"])
    for kind, soft, hard in (
        (resource.RLIMIT_AS, limits["memory"], limits["memory"]),
        (resource.RLIMIT_CPU, cpu, cpu + 1),
        (resource.RLIMIT_FSIZE, limits["file"], limits["file"]),
        (resource.RLIMIT_NOFILE, 64, 64),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_MEMLOCK, 0, 0),
    ):
        most = resource.getrlimit(kind)[1]
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(kind, (soft, hard))


def has_landlock() -> bool:
    """Whether this kernel can keep a program from files."""
    return _landlock_version(ctypes.CDLL(None, use_errno=True)) > 0


def _landlock_version(libc: ctypes.CDLL) -> int:
    return libc.syscall(444, None, ctypes.c_size_t(0), ctypes.c_uint32(1))


def _landlock(libc: ctypes.CDLL, readable: Iterable[str], writable: Iterable[str]) -> None:
    version = _landlock_version(libc)
    if version < 1:
        return
    everything = (1 << {1: 13, 2: 14}.get(version, 15)) - 1
    of_a_file = everything & (1 << 0 | 1 << 1 | 1 << 2 | 1 << 14)  # execute, write, read, truncate
    read_only = 1 << 0 | 1 << 2 | 1 << 3
    no_devices = everything & ~(1 << 6 | 1 << 11)
    attributes = struct.pack("Q", everything)
    rules = libc.syscall(444, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    _checked("Landlock", rules)
    for path, rights in (
        *((path, read_only) for path in readable),
        *((path, no_devices) for path in writable),
        ("/dev/null", everything),
        ("/dev/urandom", read_only),
    ):
        if not os.path.exists(path):
            continue
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rights = rights if os.path.isdir(path) else rights & of_a_file
        _checked("Landlock", libc.syscall(445, rules, 1, struct.pack("=Qi", rights, beneath), ctypes.c_uint32(0)))
        os.close(beneath)
    _checked("Landlock", libc.syscall(446, rules, ctypes.c_uint32(0)))
    os.close(rules)


def _checked(what: str, result: int) -> None:
    if result < 0:
        raise CannotConfine(f"{what}: {os.strerror(ctypes.get_errno())}")


def _filter(machine: str) -> bytes:
    """A seccomp program: classic BPF over (number, architecture, arguments) of each call."""
    if machine not in MACHINES:
        raise CannotConfine(f"no filter for the architecture {machine}")
    column = list(MACHINES).index(machine)
    code = [_load(4), _unless_equal(MACHINES[machine], 0, 1), _jump(1), _answer(_KILL), _load(0)]
    if machine == "x86_64":
        code += [_step(0x35, 0x40000000, 0, 1), _answer(_EPERM)]  # the x32 numbers, which name the same calls anew
    for numbers in _DENIED.values():
        number = numbers[column]
        if number is not None:
            code += [_unless_equal(number, 0, 1), _answer(_EPERM)]
    # Its flags lie in memory, where no filter sees them; without it, the C library falls back to `clone`.
    code += [_unless_equal(_CLONE3[column], 0, 1), _answer(_ENOSYS)]
    code += _only(_CLONE[column], _ARG_0, [_step(0x45, _CLONE_THREAD, 1, 0), _answer(_EPERM)])
    code += _only(_PRLIMIT[column], _ARG_0, [_unless_equal(0, 1, 0), _answer(_EPERM)])
    for call, argument, values in (
        (_FCNTL[column], _ARG_1, _SET_OWNER),
        (_IOCTL[column], _ARG_1, _SET_OWNER_IOCTL),
        (_PRCTL[column], _ARG_0, (_PR_SET_PDEATHSIG,)),
    ):
        steps = [step for value in values for step in (_unless_equal(value, 0, 1), _answer(_EPERM))]
        code += _only(call, argument, steps)
    return b"".join([*code, _answer(_ALLOW)])


def _only(number: int, argument: int, steps: list[bytes]) -> list[bytes]:
    """For one call: looks at the low half of an argument, and allows what `steps` do not answer."""
    return [_unless_equal(number, 0, len(steps) + 2), _load(argument), *steps, _answer(_ALLOW)]


def _step(code: int, value: int, if_true: int, if_false: int) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _load(offset: int) -> bytes:
    return _step(0x20, offset, 0, 0)


def _jump(steps: int) -> bytes:
    return _step(0x05, steps, 0, 0)


def _answer(what: int) -> bytes:
    return _step(0x06, what, 0, 0)


def _unless_equal(value: int, if_equal: int, if_not: int) -> bytes:
    return _step(0x15, value, if_equal, if_not)
