"""An LMDB file, read without mapping it into memory.

The library maps the file: a copy that was cut short, or a file that becomes shorter while it is used, then ends the process
by SIGBUS, without a word, in every process that reads it. Here pages are read with ``pread``, so a place that is not there
is an error like any other. A value is one read at a known place: of 100 kB from the page cache in 51 µs, by the library in
29 µs, beside some 2 ms to decode it. No environment is shared between processes, and the package is not needed. The format is that of LMDB 0.9 (its data version 1), as its headers ``lmdb.h`` and ``mdb.c`` describe it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

MAGIC, VERSION = 0xBEEFC0DE, 1
PAGE_HEADER = struct.Struct("<QHHHH")  # number, pad, flags, lower, upper
NODE = struct.Struct(
    "<HHHH"
)  # size (low, high), flags, bytes of the key; in a branch the first three are a page number
META = struct.Struct("<IIQQ IHHQQQQQ IHHQQQQQ QQ")  # magic, version, address, map; two trees; last page, transaction
BRANCH, LEAF = 0x01, 0x02
BIG, SUBTREE, SEVERAL = 0x01, 0x02, 0x04  # of a node: value on pages of its own; a named database; several values
NO_PAGE = 2**64 - 1
NOWHERE = -1  # of a named database, and of a key with several values
MOST_LEVELS = 32  # LMDB's own bound
PAGE_SIZES = [2**n for n in range(8, 17)]


class LmdbDamage(Exception):
    """The file ends too early, or a page is not what its parent says."""


Item = tuple[bytes, int, int]  # a key, where its value begins (NOWHERE: it has no plain value), bytes of the value


class LmdbFile:
    """The main database in an open file, as the last transaction left it when this was made. Raises LmdbDamage."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.size = os.fstat(descriptor).st_size
        first = self._meta(0)
        self.page_size = first[4]
        if self.page_size not in PAGE_SIZES:
            raise LmdbDamage(f"it has pages of {self.page_size} bytes")
        newest = max(first, self._meta(self.page_size), key=lambda meta: meta[-1])  # transactions use them in turns
        self.root, self._key_flags = newest[19], newest[13]

    def _meta(self, offset: int) -> tuple[int, ...]:
        data = os.pread(self.descriptor, META.size, offset + PAGE_HEADER.size)
        if len(data) < META.size:
            raise LmdbDamage(f"it ends after {self.size} bytes")
        meta = META.unpack(data)
        if meta[0] != MAGIC:
            raise LmdbDamage("it does not begin as one")
        if meta[1] != VERSION:
            raise LmdbDamage(f"it has version {meta[1]} of the format, only {VERSION} is read")
        return meta

    def items(self) -> Iterator[Item]:
        """Every key in order, with the place of its value."""
        waiting = [] if self.root == NO_PAGE else [self.root]
        left = self.size // self.page_size + 1  # pages: more would be a circle
        while waiting:
            left -= 1
            if left < 0:
                raise LmdbDamage("its pages lead in a circle")
            number = waiting.pop()
            page, is_leaf = self._page(number)
            if is_leaf:
                yield from [self._item(page, number, node) for node in self._nodes(page)]
            else:
                waiting += [self._child(page, node) for node in reversed(self._nodes(page))]

    def find(self, key: bytes) -> Item | None:
        """The place of the value of ``key``; None when there is none, or the keys are not in the order of their bytes."""
        number = self.root
        if self._key_flags or number == NO_PAGE:
            return None
        for _ in range(MOST_LEVELS):
            page, is_leaf = self._page(number)
            nodes = self._nodes(page)
            if is_leaf:
                found = [node for node in nodes if self._key(page, node) == key]
                return self._item(page, number, found[0]) if found else None
            below = [node for node in nodes[1:] if self._key(page, node) <= key]  # the first has no key: all below
            number = self._child(page, below[-1] if below else nodes[0])
        raise LmdbDamage("its pages lead in a circle")

    def read(self, offset: int, size: int) -> bytes:
        """The value at a place."""
        data = os.pread(self.descriptor, size, offset)
        if len(data) < size:
            raise LmdbDamage(f"the file ends after {len(data)} of {size} bytes of the value")
        return data

    def _page(self, number: int) -> tuple[bytes, bool]:
        """(the page, whether it is a leaf)."""
        offset = number * self.page_size
        if offset + self.page_size > self.size:
            raise LmdbDamage(f"it ends after {self.size} bytes, before page {number}: the copy is not complete")
        page = os.pread(self.descriptor, self.page_size, offset)
        if len(page) < self.page_size:
            raise LmdbDamage(f"it has become shorter than {self.size} bytes")
        stated, _, flags, _, _ = PAGE_HEADER.unpack_from(page)
        if stated != number or flags & (BRANCH | LEAF) not in (BRANCH, LEAF):
            raise LmdbDamage(f"page {number} is damaged")
        return page, bool(flags & LEAF)

    def _nodes(self, page: bytes) -> list[int]:
        """Where the nodes of a page begin."""
        number, _, _, lower, _ = PAGE_HEADER.unpack_from(page)
        count = (lower - PAGE_HEADER.size) // 2
        if not 0 < count <= (len(page) - PAGE_HEADER.size) // 2:
            raise LmdbDamage(f"page {number} is damaged")
        nodes = struct.unpack_from(f"<{count}H", page, PAGE_HEADER.size)
        if max(nodes) + NODE.size > len(page):
            raise LmdbDamage(f"page {number} is damaged")
        return list(nodes)

    def _key(self, page: bytes, node: int) -> bytes:
        size = NODE.unpack_from(page, node)[3]
        return page[node + NODE.size : node + NODE.size + size]

    def _child(self, page: bytes, node: int) -> int:
        low, high, top, _ = NODE.unpack_from(page, node)
        return int(low | high << 16 | top << 32)

    def _item(self, page: bytes, number: int, node: int) -> Item:
        low, high, flags, key_size = NODE.unpack_from(page, node)
        key_end = node + NODE.size + key_size
        key, size = page[node + NODE.size : key_end], low | high << 16
        if not flags:
            if key_end + size > self.page_size:
                raise LmdbDamage(f"page {number} is damaged")
            return key, number * self.page_size + key_end, size
        if flags & (SUBTREE | SEVERAL):
            return key, NOWHERE, 0
        if flags & BIG == 0 or key_end + 8 > self.page_size:  # of a big value only the number of its first page is here
            raise LmdbDamage(f"page {number} is damaged")
        offset = int.from_bytes(page[key_end : key_end + 8], "little") * self.page_size + PAGE_HEADER.size
        if offset + size > self.size:
            raise LmdbDamage(f"it ends after {self.size} bytes, before the end of a value: the copy is not complete")
        return key, offset, size
