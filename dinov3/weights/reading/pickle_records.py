"""What a pickle says, as plain values: its opcodes are read here, and nothing they name is imported, called or changed.

An unpickler with a list of allowed names still calls what is allowed and sets attributes on it (``BUILD`` on a class
patches the class for the whole program). Here a name stays a ``Name`` and a call stays a ``Record``, so the worst a file
can do is to be refused. Opcodes are those that pickles of protocols 2 to 5 consist of (``pickletools`` documents them).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

# A piece of a tensor takes 69 steps in the metadata of a checkpoint folder, so these are 290,000 pieces. A step takes
# about 1 us and at most 150 bytes (an empty table that is remembered): 20 s and 3 GB for a file made to be the worst.
MAX_STEPS = 20_000_000
MAX_NUMBER_BYTES = 32  # random generators have states of 128 bits; nothing has longer numbers
MAX_KEY_PARTS = 64
PERSISTENT = "persistent id"  # the kind of a record that stands for what is kept outside the pickle


class NotPlain(Exception):
    """The bytes are no pickle that can be followed; the message is one line and does not name the file."""


# What protocols 0 to 2, torch.save's own among them, call modules that Python 3 has renamed.
OLD_NAMES = {"__builtin__": "builtins", "copy_reg": "copyreg"}


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that a pickle asks for."""

    module: str
    name: str

    def __str__(self) -> str:
        return ascii(f"{self.module}.{self.name}")[1:-1][:120]


@dataclass(eq=False, slots=True)
class Record:
    """What would have been made by calling ``kind`` with ``args``, then given ``state`` and filled."""

    kind: Name | str
    args: tuple[Any, ...]
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    members: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Content:
    """A whole pickle."""

    value: Any
    names: frozenset[Name]  # all it asked for, used or not
    outside: tuple[Any, ...]  # its persistent ids: what is kept outside
    end: int  # where the next one begins


def read_pickle(data: bytes, start: int = 0) -> Content:
    """The pickle that begins at ``start``: text, numbers, containers, and a Record for everything else.

    Time and memory are at most proportional to its length. Containers may hold themselves. Raises NotPlain.
    """
    return _Reader(data, start).run()


def table_of(value: Any) -> dict[Any, Any] | None:
    """The entries of a dict or an OrderedDict; None for anything else."""
    if isinstance(value, Record) and value.kind == Name("collections", "OrderedDict"):
        pairs = value.args[0] if value.args else []
        if isinstance(pairs, list) and all(
            isinstance(p, list | tuple) and len(p) == 2 and _is_key(p[0]) for p in pairs
        ):
            return dict(pairs) | value.items
        return None
    return value if isinstance(value, dict) else None


def is_int(value: Any) -> bool:
    """A whole number, and no truth value?"""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_key(value: Any) -> bool:
    """May it be a key? Its hash must be cheap and hard to make collide: no nested tuples, no long numbers."""
    if isinstance(value, tuple):
        return len(value) <= MAX_KEY_PARTS and all(not isinstance(part, tuple) and _is_key(part) for part in value)
    if isinstance(value, int):
        return abs(value) < 1 << 60
    return value is None or isinstance(value, str | bytes | Name | Record)


class _Reader:
    """One pass over the opcodes."""

    def __init__(self, data: bytes, start: int) -> None:
        self.data, self.at = data, start
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each mark
        self.memo: dict[int, Any] = {}
        self.names: set[Name] = set()
        self.outside: list[Any] = []

    def run(self) -> Content:
        data, steps = self.data, OPCODES
        try:
            for _ in range(MAX_STEPS):
                code = data[self.at]
                self.at += 1
                if code == STOP:
                    return Content(self.stack.pop(), frozenset(self.names), tuple(self.outside), self.at)
                step = steps.get(code)
                if step is None:
                    _refuse(f"opcode {code:#04x} does not occur in such files")
                step(self)
        except IndexError:
            _refuse("it ends early, or takes what it has not made")
        except (UnicodeDecodeError, struct.error) as error:
            raise NotPlain(f"damaged: {type(error).__name__}") from error
        _refuse(f"more than {MAX_STEPS:,} steps")

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.data):
            raise IndexError
        part = self.data[self.at : end]
        self.at = end
        return part

    def sized(self, size: int) -> bytes:
        """What follows a length of ``size`` bytes."""
        return self.take(int.from_bytes(self.take(size), "little"))

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + 4096)
        if end < 0:
            raise IndexError
        text = self.data[self.at : end].decode()
        self.at = end + 1
        return text

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def since_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.below.pop()
        return items

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            _refuse("a name that is no text")
        found = Name(OLD_NAMES.get(module, module), name)
        self.names.add(found)
        self.stack.append(found)

    def record(self, what: str) -> None:
        args, kind = self.stack.pop(), self.stack.pop()
        if not isinstance(kind, Name) or not isinstance(args, tuple):
            _refuse(f"{what} of what is no name")
        self.stack.append(Record(kind, args))

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, Record) or target.state is not None:
            _refuse("it changes something that is no record of its own")
        target.state = state

    def fill(self, pairs: list[Any]) -> None:
        """Set the ``pairs`` (key, value, key, value, …) in the table on top."""
        target = self.stack[-1]
        table = target.items if isinstance(target, Record) else target
        if not isinstance(table, dict) or len(pairs) % 2:
            _refuse("entries of what is no table")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not _is_key(key):
                _refuse("a key that is neither text nor a number")
            table[key] = value

    def extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        members = target.members if isinstance(target, Record) else target
        if not isinstance(members, list):
            _refuse("members of what is no list")
        members.extend(values)

    def number(self, size: int) -> None:
        if size > MAX_NUMBER_BYTES:
            _refuse(f"a number of {size} bytes")
        self.stack.append(int.from_bytes(self.take(size), "little", signed=True))

    def memoize(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise IndexError
        self.stack.append(self.memo[index])

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError
        items = tuple(self.stack[-count:])
        self.stack[-count:] = [items]

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def table(self) -> None:
        items = self.since_mark()
        self.stack.append({})
        self.fill(items)

    def persistent(self) -> None:
        self.outside.append(self.stack.pop())
        self.stack.append(Record(PERSISTENT, (self.outside[-1],)))


def _refuse(problem: str) -> NoReturn:
    raise NotPlain(problem)


def _push(value: Any) -> Callable[[_Reader], object]:
    return lambda r: r.stack.append(value)


def _unsigned(size: int, then: Callable[[_Reader, int], object]) -> Callable[[_Reader], object]:
    return lambda r: then(r, int.from_bytes(r.take(size), "little"))


def _text(size: int, encoding: str = "utf-8") -> Callable[[_Reader], object]:
    # surrogatepass: as pickle writes a file name that is no UTF-8
    errors = "surrogatepass" if encoding == "utf-8" else "strict"
    return lambda r: r.stack.append(r.sized(size).decode(encoding, errors))


def _bytes(size: int) -> Callable[[_Reader], object]:
    return lambda r: r.stack.append(r.sized(size))


STOP = ord(".")
_ONE: dict[str, Callable[[_Reader], object]] = {
    # constants and numbers
    "N": _push(None),
    "\x88": _push(True),
    "\x89": _push(False),
    "J": lambda r: r.stack.append(int.from_bytes(r.take(4), "little", signed=True)),
    "K": _unsigned(1, lambda r, n: r.stack.append(n)),
    "M": _unsigned(2, lambda r, n: r.stack.append(n)),
    "\x8a": _unsigned(1, _Reader.number),
    "\x8b": _unsigned(4, _Reader.number),
    "G": lambda r: r.stack.append(struct.unpack(">d", r.take(8))[0]),
    # text and bytes; U and T are what Python 2 called text
    "\x8c": _text(1),
    "X": _text(4),
    "\x8d": _text(8),
    "U": _text(1, "latin-1"),
    "T": _text(4, "latin-1"),
    "C": _bytes(1),
    "B": _bytes(4),
    "\x8e": _bytes(8),
    "\x96": _bytes(8),
    # containers
    "(": _Reader.mark,
    ")": _push(()),
    "\x85": lambda r: r.tuple_of(1),
    "\x86": lambda r: r.tuple_of(2),
    "\x87": lambda r: r.tuple_of(3),
    "t": lambda r: r.push(tuple(r.since_mark())),
    "]": lambda r: r.stack.append([]),
    "l": lambda r: r.push(r.since_mark()),
    "a": lambda r: r.extend([r.stack.pop()]),
    "e": lambda r: r.extend(r.since_mark()),
    "}": lambda r: r.stack.append({}),
    "d": _Reader.table,
    "s": lambda r: r.fill([r.stack.pop(-2), r.stack.pop()]),
    "u": lambda r: r.fill(r.since_mark()),
    "\x8f": lambda r: r.stack.append([]),  # a set: a list here, for its members need no hash
    "\x90": lambda r: r.extend(r.since_mark()),
    "\x91": lambda r: r.push(r.since_mark()),
    # names, and what would be made with them
    "c": lambda r: r.name(r.line(), r.line()),
    "\x93": lambda r: r.name(r.stack.pop(-2), r.stack.pop()),
    "R": lambda r: r.record("a call"),
    "\x81": lambda r: r.record("an object"),
    "b": _Reader.build,
    "Q": _Reader.persistent,
    # the stack and its memory
    "0": _Reader.pop,
    "1": _Reader.since_mark,
    "2": lambda r: r.stack.append(r.stack[-1]),
    "h": _unsigned(1, _Reader.recall),
    "j": _unsigned(4, _Reader.recall),
    "q": _unsigned(1, _Reader.memoize),
    "r": _unsigned(4, _Reader.memoize),
    "\x94": lambda r: r.memoize(len(r.memo)),
    # frames only say how to read ahead
    "\x80": lambda r: r.take(1),
    "\x95": lambda r: r.take(8),
}
OPCODES = {ord(code): step for code, step in _ONE.items()}
