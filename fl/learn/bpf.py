"""The filter on system calls: classic BPF, as the kernel runs it before each call of a locked process (seccomp(2)).

A program is a list of instructions of 8 bytes that load words of ``struct seccomp_data`` (number, architecture, six
arguments of 64 bits), jump forward by up to 255, and return what is to be done.  The order is: the calling convention
(another one has other numbers, so it ends the process), calls that are checked, calls that are allowed, and a refusal
for the rest.  Kernels from 5.11 on know beforehand which numbers are allowed whatever the arguments, and do not run the
program for them.
"""

from __future__ import annotations

import errno
import struct

from .arguments import Rule, rules
from .syscalls import CHECKED, HIDDEN, NEWEST, Machine, allowed, numbers

ALLOW, REFUSE, KILL, NOTIFY = 0x7FFF0000, 0x00050000, 0x80000000, 0x7FC00000
"""What a program returns; to REFUSE the error number is added."""
_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16


def program(machine: Machine, pid: int, *, confined: bool) -> bytes:
    """The filter of the process ``pid``; ``confined`` says whether Landlock confines its files."""
    refuse = _op(_RETURN, REFUSE | errno.EPERM)
    code = _prologue(machine)
    for number in numbers(machine, HIDDEN).values():
        code += [_op(_EQUAL, number, 0, 1), _op(_RETURN, REFUSE | errno.ENOSYS)]
    checked = rules(machine, pid, confined=confined)
    for name, number in numbers(machine, CHECKED).items():
        if name not in checked:  # as if it were not listed
            continue
        body = [op for rule in checked[name] for op in _check(rule)]
        code += [_op(_EQUAL, number, 0, len(body) + 1), *body, _op(_RETURN, ALLOW)]
    for number in sorted(allowed(machine, confined=confined)):
        code += [_op(_EQUAL, number, 0, 1), _op(_RETURN, ALLOW)]
    code += [_op(_AT_LEAST, NEWEST + 1, 0, 1), _op(_RETURN, REFUSE | errno.ENOSYS), refuse]
    return b"".join(code)


def notifier(machine: Machine, name: str) -> bytes:
    """A filter that asks its listener about one checked call, and has no opinion on the others."""
    number = numbers(machine, CHECKED)[name]
    return b"".join(
        [*_prologue(machine), _op(_EQUAL, number, 0, 1), _op(_RETURN, NOTIFY), _op(_RETURN, ALLOW)]
    )  # fmt: skip


def _prologue(machine: Machine) -> list[bytes]:
    """Leave the number of the call in the register, or end the process."""
    return [
        _op(_LOAD, _ARCH), _op(_EQUAL, machine.audit, 1, 0), _op(_RETURN, KILL),
        _op(_LOAD, _NUMBER), _op(_AT_LEAST, machine.first_foreign, 0, 1), _op(_RETURN, KILL),
    ]  # fmt: skip


def _check(rule: Rule) -> list[bytes]:
    """Refuse unless the rule holds; go on otherwise."""
    at = _ARGUMENTS + 8 * rule.argument
    refuse = _op(_RETURN, REFUSE | errno.EPERM)
    code = []
    if rule.whole:
        assert rule.values == (0,)
        code += [_op(_LOAD, at + 4), _op(_EQUAL, 0, 1, 0), refuse]
    code.append(_op(_LOAD, at))
    if rule.mask != 0xFFFFFFFF:
        code.append(_op(_AND, rule.mask))
    for left, value in zip(reversed(range(len(rule.values))), rule.values, strict=True):
        code.append(_op(_EQUAL, value, left + 1, 0))
    return [*code, refuse]


def _op(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("<HBBI", code, yes, no, value)
