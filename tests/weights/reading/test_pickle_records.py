"""Opcodes are read and nothing they name is imported, called or changed."""

from __future__ import annotations

import argparse
import collections
import pathlib
import pickle
import pickletools
import sys
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov3.weights.reading.pickle_records import Content, Name, NotPlain, Record, read_pickle, table_of
from tests.weights.reading.opcodes import pickled

SIMPLE = st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.floats(allow_nan=False) | st.text()


def containers(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.lists(inner, max_size=4).map(tuple)
            | st.dictionaries(st.text(max_size=3) | st.integers(-100, 100), inner, max_size=4)
        ),
        max_leaves=12,
    )


PLAIN = containers(SIMPLE | st.binary())


@given(PLAIN, st.integers(3, 5))
def test_plain_values_come_back_as_pickle_itself_gives_them(value: Any, protocol: int) -> None:
    assert read_pickle(pickle.dumps(value, protocol)).value == value


@given(containers(SIMPLE))
def test_plain_values_of_protocol_2_come_back(value: Any) -> None:
    assert read_pickle(pickle.dumps(value, 2)).value == value


@given(PLAIN)
def test_plain_values_made_by_hand_come_back(value: Any) -> None:
    assert read_pickle(pickled(value)).value == value


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_an_object_is_a_record_of_its_class_arguments_and_state(protocol: int) -> None:
    found = read_pickle(pickle.dumps(argparse.Namespace(lr=0.5), protocol)).value
    assert (found.kind, found.state) == (Name("argparse", "Namespace"), {"lr": 0.5})
    ordered = read_pickle(pickle.dumps(collections.OrderedDict(a=1, b=[2]), protocol)).value
    assert table_of(ordered) == {"a": 1, "b": [2]}
    path = read_pickle(pickle.dumps(pathlib.PurePosixPath("/a/b"), protocol)).value
    assert path.args == ("/", "a", "b")


def test_a_call_is_written_down_and_not_made(tmp_path: pathlib.Path) -> None:
    call = Record(Name("os", "system"), (f"touch {tmp_path / 'canary'}",))
    content = read_pickle(pickled(call))
    assert content.value.kind == Name("os", "system")
    assert content.names == {Name("os", "system")}
    assert not (tmp_path / "canary").exists()


def test_no_module_is_imported() -> None:
    before = set(sys.modules)
    read_pickle(pickled(Record(Name("antigravity", "fly"), ())))
    assert set(sys.modules) == before


def test_state_given_to_a_class_is_refused_and_patches_nothing() -> None:
    parent = pathlib.PurePath.__dict__["parent"]
    posix = b"cpathlib\nPosixPath\n"
    with pytest.raises(NotPlain, match="it changes something that is no record of its own"):
        read_pickle(b"\x80\x04" + posix + b"N}" + b"X\x06\0\0\0parent" + posix + b"s\x86b0N.")
    assert pathlib.PurePath.__dict__["parent"] is parent
    assert "parent" not in vars(pathlib.PosixPath)


HOSTILE = {
    "a call of text": (b"\x80\x04X\x01\0\0\0a)R.", "a call of what is no name"),
    "an object of a call": (b"\x80\x04ca\nb\n)R)\x81.", "an object of what is no name"),
    "a call with a table": (b"\x80\x04ca\nb\n}R.", "a call of what is no name"),
    "state twice": (b"\x80\x04ca\nb\n)R}b}b.", "changes something"),
    "state of a table": (b"\x80\x04}}b.", "changes something"),
    "a number of 40 bytes": (b"\x80\x04\x8a\x28" + b"\1" * 40 + b".", "a number of 40 bytes"),
    "a number of 2 GB": (b"\x80\x04\x8b\xff\xff\xff\x7f.", "a number of 2147483647 bytes"),
    "text beyond the end": (b"\x80\x04\x8d" + b"\xff" * 8 + b"a.", "ends early"),
    "bytes beyond the end": (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f" + b"a.", "ends early"),
    "memory that is empty": (b"\x80\x04h\5.", "takes what it has not made"),
    "a stack that is empty": (b"\x80\x04.", "takes what it has not made"),
    "no end": (b"\x80\x04N", "ends early"),
    "nothing": (b"", "ends early"),
    "a key that is a list": (b"\x80\x04}]Ns.", "a key that is neither"),
    "a key of nested tuples": (b"\x80\x04}" + b")" + b"\x85" * 100_000 + b"Ns.", "a key that is neither"),
    "keys that collide": (pickled({2**61 - 1: 0}), "a key that is neither"),
    "an odd table": (b"\x80\x04(Nd.", "entries of what is no table"),
    "an opcode of Python 2": (b"\x80\x04I1\n.", "opcode 0x49 does not occur"),
    "an extension": (b"\x80\x04\x82\x01.", "opcode 0x82 does not occur"),
    "a buffer from elsewhere": (b"\x80\x05\x97.", "opcode 0x97 does not occur"),
    "a name without an end": (b"\x80\x04c" + b"a" * 100_000, "ends early"),
    "a name of numbers": (b"\x80\x04K\1K\2\x93.", "a name that is no text"),
    "text that is none": (b"\x80\x04X\2\0\0\0\xff\xff.", "UnicodeDecodeError"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_no_such_file_holds_is_refused_in_one_line(case: str) -> None:
    data, message = HOSTILE[case]
    with pytest.raises(NotPlain, match=message) as caught:
        read_pickle(data)
    assert len(str(caught.value).splitlines()) == 1


def test_a_container_may_hold_itself() -> None:
    found = read_pickle(b"\x80\x04]\x94h\0a.").value
    assert found[0] is found


def test_names_that_would_multiply_take_memory_by_their_length_alone() -> None:
    # Forty lists, each holding the one before ten times: 10^40 elements for who walks through them.
    data = b"\x80\x04]\x94" + b"".join(b"](" + b"h" + bytes([i]) + b"h" + bytes([i]) + b"e\x94" for i in range(40))
    tracemalloc.start()
    read_pickle(data + b".")
    assert tracemalloc.get_traced_memory()[1] < 170 * len(data) + 100_000
    tracemalloc.stop()


def test_every_opcode_is_one_that_python_documents() -> None:
    from dinov3.weights.reading.pickle_records import OPCODES

    known = {ord(op.code): op for op in pickletools.opcodes}
    assert set(OPCODES) <= set(known)
    missing = {op.name for code, op in known.items() if op.proto >= 1 and code not in {*OPCODES, ord(".")}}
    assert missing == {"OBJ", "EXT1", "EXT2", "EXT4", "NEWOBJ_EX", "NEXT_BUFFER", "READONLY_BUFFER"}


@st.composite
def almost_pickles(draw: st.DrawFn) -> bytes:
    """Opcodes in any order, with arguments that are often what they take."""
    parts = st.one_of(
        st.sampled_from([bytes([op.code.encode("latin-1")[0]]) for op in pickletools.opcodes]),
        st.sampled_from(
            [b"ca\nb\n", b"X\1\0\0\0a", b"K\1", b"J\xff\xff\xff\xff", b"h\0", b"q\0", b")", b"(", b"}", b"]"]
        ),
        st.binary(max_size=9),
    )
    return b"\x80\x04" + b"".join(draw(st.lists(parts, max_size=40))) + b"."


def check_any_bytes(data: bytes) -> None:
    before = set(sys.modules)
    refusal = "none"
    try:
        assert isinstance(read_pickle(data), Content)
    except NotPlain as error:
        refusal = str(error)
    assert len(refusal.splitlines()) == 1
    assert set(sys.modules) == before


@given(almost_pickles())
def test_any_order_of_opcodes_is_read_or_refused(data: bytes) -> None:
    check_any_bytes(data)


@pytest.mark.nightly
@settings(max_examples=10_000, deadline=None)
@given(almost_pickles())
def test_ten_thousand_orders_of_opcodes_are_read_or_refused(data: bytes) -> None:
    check_any_bytes(data)
