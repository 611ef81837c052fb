"""The metadata of a checkpoint folder: what every version writes is read, what no version writes is one line."""

from __future__ import annotations

import copy
import enum
import pathlib
import pickle
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributed.checkpoint import metadata as torch_records

from dinov3.weights.reading.dcp_folder import METADATA, read_dcp
from dinov3.weights.reading.dcp_metadata import FIELDS, MODULES, covers
from dinov3.weights.reading.errors import WeightsError
from dinov3.weights.reading.pickle_records import Name, Record
from tests.weights.reading.opcodes import pickled

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
TENSORS = {
    "model.backbone.a": torch.arange(12.0).reshape(4, 3),
    "model.backbone.b": torch.arange(5).bfloat16(),
    "model.dino_head.c": torch.tensor(2.5),
}
Piece = tuple[tuple[int, ...], tuple[int, ...]]


def as_table(kind: str, values: Mapping[str, Any]) -> Any:
    return dict(values)


def beside_nothing(kind: str, values: Mapping[str, Any]) -> Any:
    return (None, dict(values))


def as_row(kind: str, values: Mapping[str, Any]) -> Any:
    return [values.get(name) for name in FIELDS[kind]]


ENUM = Name(MODULES["Metadata"], "_MEM_FORMAT_ENCODING")
ENUMS = {
    "called": Record(ENUM, (0,)),
    "asked for": Record(Name("builtins", "getattr"), (ENUM, "TORCH_CONTIGUOUS_FORMAT")),  # Python 3.11.0 to 3.11.3
}


class Writer:
    """Metadata in the form that a version of torch and Python gives them."""

    def __init__(self, state: Callable[[str, Mapping[str, Any]], Any] = as_table, enum: str = "called") -> None:
        self.state, self.enum = state, copy.deepcopy(ENUMS[enum])

    def record(self, kind: str, **values: Any) -> Record:
        return Record(Name(MODULES[kind], kind), (), self.state(kind, values))

    def size(self, size: Any) -> Any:
        return Record(Name("torch", "Size"), (size,)) if isinstance(size, tuple) else size

    def tensor(self, shape: Any, dtype: Any, pieces: Any) -> Record:
        layout = Record(Name("torch.serialization", "_get_layout"), ("torch.strided",))
        row = (Name("torch", dtype) if isinstance(dtype, str) else dtype, layout, False, self.enum, False)
        properties = Record(Name(MODULES["TensorProperties"], "TensorProperties"), (), row)
        if isinstance(pieces, list):
            pieces = [self.record("ChunkStorageMetadata", offsets=self.size(o), sizes=self.size(s)) for o, s in pieces]
        return self.record("TensorStorageMetadata", properties=properties, size=self.size(shape), chunks=pieces)

    def place(self, name: Any, at: Any, **where: Any) -> tuple[Record, Record]:
        index = self.record("MetadataIndex", fqn=name, offset=self.size(at), index=0)
        return index, self.record("_StorageInfo", **where)

    def whole(self, tensors: Any, places: Any) -> Record:
        path = Record(Name("pathlib", "PosixPath"), ("/", "ckpt"))
        meta = self.record("StorageMeta", checkpoint_id=path, save_id="s", modules=[])
        return self.record(
            "Metadata", state_dict_metadata=tensors, planner_data={"a": ("a",)}, storage_data=places, storage_meta=meta
        )


def write(
    folder: Path, tensors: Mapping[str, Tensor] = TENSORS, split: Callable[[Tensor], list[Piece]] | None = None
) -> dict[str, tuple[tuple[int, ...], str, list[Piece], list[tuple[int, int]]]]:
    """The data file of ``tensors`` in pieces, and for each (shape, dtype, pieces, (start, length) of the pieces)."""
    import io

    folder.mkdir(exist_ok=True)
    content, facts = b"", {}
    for name, tensor in tensors.items():
        pieces = split(tensor) if split else [((0,) * tensor.ndim, tuple(tensor.shape))]
        where = []
        for offsets, sizes in pieces:
            part = tensor
            for dim, (offset, size) in enumerate(zip(offsets, sizes, strict=True)):
                part = part.narrow(dim, offset, size)
            torch.save(part.clone(), buffer := io.BytesIO())
            where.append((len(content), buffer.tell()))
            content += buffer.getvalue()
        facts[name] = (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), pieces, where)
    (folder / "__0_0.distcp").write_bytes(content)
    return facts


def metadata_of(facts: Any, writer: Writer) -> Record:
    tensors = {name: writer.tensor(shape, dtype, pieces) for name, (shape, dtype, pieces, _) in facts.items()}
    places = dict(
        writer.place(name, offset, relative_path="__0_0.distcp", offset=start, length=length)
        for name, (_, _, pieces, where) in facts.items()
        for (offset, _), (start, length) in zip(pieces, where, strict=True)
    )
    return writer.whole(tensors, places)


def in_rows(tensor: Tensor) -> list[Piece]:
    """As three ranks shard it, the last of which may have nothing."""
    if tensor.ndim == 0:
        return [((), ())]
    rest, at, pieces = tuple(tensor.shape[1:]), 0, []
    for part in tensor.chunk(2):
        pieces.append(((at, *(0 for _ in rest)), (len(part), *rest)))
        at += len(part)
    return [*pieces, ((at, *(0 for _ in rest)), (0, *rest))]


def in_a_grid(tensor: Tensor) -> list[Piece]:
    if tensor.ndim < 2:
        return in_rows(tensor)
    rows, cols = tensor.shape
    return [((r, c), (rows // 2, cols - 1 if c else 1)) for r in (rows // 2, 0) for c in (0, 1)]


@pytest.mark.parametrize("enum", ENUMS)
@pytest.mark.parametrize("state", [as_table, beside_nothing, as_row])
@pytest.mark.parametrize("split", [None, in_rows, in_a_grid])
def test_every_form_of_the_records_is_read(split: Any, state: Any, enum: str, tmp_path: Path) -> None:
    facts = write(tmp_path, split=split)
    for objects in (False, True):
        (tmp_path / METADATA).write_bytes(pickled(metadata_of(facts, Writer(state, enum)), objects=objects))
        found, files = read_dcp(tmp_path)
        assert {f"model.{name}" for name in found} == set(TENSORS)
        assert all(torch.equal(found[k.removeprefix("model.")], v) for k, v in TENSORS.items())
        assert [f.name for f in files] == ["__0_0.distcp"]


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_this_torch_is_read_as_torch_itself_reads_it(
    protocol: int, by_name: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``by_name``: as Python 3.11.0 to 3.11.3 write members of an enumeration, and programs that ask for it."""
    if by_name:
        monkeypatch.setattr(enum.Enum, "__reduce_ex__", lambda self, proto: (getattr, (self.__class__, self._name_)))
    dcp.save(dict(TENSORS), checkpoint_id=str(tmp_path), no_dist=True)
    stored = pickle.loads((tmp_path / METADATA).read_bytes())
    (tmp_path / METADATA).write_bytes(pickle.dumps(stored, protocol))
    theirs = {name: torch.empty_like(tensor) for name, tensor in TENSORS.items()}
    dcp.load(theirs, checkpoint_id=str(tmp_path), no_dist=True)
    found, _ = read_dcp(tmp_path)
    assert all(torch.equal(found[k.removeprefix("model.")], v) for k, v in theirs.items())


def test_a_class_cannot_be_patched_by_the_metadata(tmp_path: Path) -> None:
    """Only names that belong there, and state for one of them: an unpickler would set it on the class."""
    facts = write(tmp_path)
    (tmp_path / METADATA).write_bytes(pickled(metadata_of(facts, Writer())))
    read_dcp(tmp_path)
    plain = (tmp_path / METADATA).read_bytes()
    posix = b"cpathlib\nPosixPath\n"
    patch = posix + b"N}" + b"X\x06\0\0\0parent" + posix + b"(X\x0b\0\0\0/redirectedtRs\x86b0"
    (tmp_path / METADATA).write_bytes(plain[:2] + patch + plain[2:])
    with pytest.raises(WeightsError, match="changes something that is no record of its own"):
        read_dcp(tmp_path)
    assert pathlib.Path("/a/b").parent == pathlib.Path("/a")


A = "model.backbone.a"
ODD: dict[str, tuple[Callable[[Any], None], str]] = {
    "10**12 rows": (lambda f: f.update(shape=(10**12, 3)), "do not cover"),
    "10**12 rows in pieces too": (
        lambda f: f.update(shape=(10**12, 3), pieces=[((0, 0), (10**12, 3))]),
        "larger than its",
    ),
    "10**30 rows": (lambda f: f.update(shape=(10**30, 3)), "a size of a int, 3"),
    "a negative size": (lambda f: f.update(shape=(-4, 3)), "a size of -4, 3"),
    "a size of text": (lambda f: f.update(shape="text"), "a size that is no row of numbers"),
    "text in a size": (lambda f: f.update(shape=("4", 3)), "a size of a str, 3"),
    "a size of truth": (lambda f: f.update(shape=(True, 3)), "a size of a bool, 3"),
    "no size": (lambda f: f.update(shape=None), "no row of numbers"),
    "nine dimensions": (lambda f: f.update(shape=(1,) * 9), "no row of numbers"),
    "no pieces": (lambda f: f.update(pieces=[], where=[]), "0 pieces do not cover"),
    "pieces of nothing": (lambda f: f.update(pieces=None), "has no pieces"),
    "a piece missing": (lambda f: f["pieces"].pop(), "1 pieces do not cover"),
    "a piece twice": (lambda f: f["pieces"].append(f["pieces"][0]), "do not cover"),
    "pieces that overlap": (lambda f: f.update(pieces=[((0, 0), (3, 3)), ((2, 0), (2, 3))]), "do not cover"),
    "a piece outside": (lambda f: f.update(pieces=[((0, 0), (2, 3)), ((3, 0), (2, 3))]), "do not cover"),
    "a piece at -1": (lambda f: f.update(pieces=[((-1, 0), (2, 3)), ((2, 0), (2, 3))]), "a size of -1, 0"),
    "a piece of two dimensions less": (lambda f: f.update(pieces=[((), ())]), "do not cover"),
    "an unknown number format": (lambda f: f.update(dtype="float4"), r"its numbers are of torch\.float4"),
    "a text as number format": (lambda f: f.update(dtype=7), "its numbers are of a int"),
    "another number format": (lambda f: f.update(dtype="float16"), r"float32 in it, the metadata say"),
    "a start at -1": (lambda f: f.update(where=[(-1, 9), *f["where"][1:]]), "begins at -1"),
    "a length of 10**12": (lambda f: f.update(where=[(0, 10**12), *f["where"][1:]]), "ends early"),
    "a length of text": (lambda f: f.update(where=[(0, "9"), *f["where"][1:]]), "has a str bytes"),
    "a length of nothing": (lambda f: f.update(where=[(0, None), *f["where"][1:]]), "has a NoneType bytes"),
    "a length of 5 bytes": (lambda f: f.update(where=[(0, 5), *f["where"][1:]]), "larger than its 5 bytes"),
    "a length one short": (lambda f: f.update(where=[(0, f["where"][0][1] - 1), *f["where"][1:]]), "list of records"),
    "no place": (lambda f: f.update(where=f["where"][:1]), r"its piece at \[2, 0\] is nowhere"),
}


@pytest.mark.parametrize("case", ODD)
def test_a_tensor_that_is_not_there_exactly_once_is_refused_before_memory_is_asked_for(
    case: str, tmp_path: Path
) -> None:
    change, message = ODD[case]
    facts = write(tmp_path, {A: TENSORS[A]}, in_rows)
    shape, dtype, pieces, where = facts[A]
    odd: dict[str, Any] = {"shape": shape, "dtype": dtype, "pieces": pieces[:2], "where": where[:2]}
    offsets = [offset for offset, _ in odd["pieces"]]
    change(odd)
    writer = Writer()
    places = dict(
        writer.place(A, offset, relative_path="__0_0.distcp", offset=start, length=length)
        for offset, (start, length) in zip(offsets, odd["where"], strict=False)
    )
    whole = writer.whole({A: writer.tensor(odd["shape"], odd["dtype"], odd["pieces"])}, places)
    (tmp_path / METADATA).write_bytes(pickled(whole))
    with pytest.raises(WeightsError, match=message) as caught:
        read_dcp(tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith(str(tmp_path))


def test_tables_properties_and_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    facts, writer = write(tmp_path), Writer()
    whole = metadata_of(facts, writer)
    tensor = writer.tensor((4, 3), "float32", [((0, 0), (4, 3))])
    tensor.state["properties"] = None
    for odd, message in (
        ({"state_dict_metadata": None}, "its tables are none"),
        ({"storage_data": [1]}, "its tables are none"),
        ({"state_dict_metadata": {A: tensor}}, "a NoneType where a TensorProperties belongs"),
        ({"state_dict_metadata": {A: 3}}, "an entry without a name"),
        ({"storage_data": {"a": "b"}}, "a str where a MetadataIndex belongs"),
    ):
        state = {**whole.state, **odd}
        (tmp_path / METADATA).write_bytes(pickled(Record(whole.kind, (), state)))
        with pytest.raises(WeightsError, match=message):
            read_dcp(tmp_path)


def test_many_tensors_that_claim_the_same_bytes_are_refused(tmp_path: Path) -> None:
    """A thousand names for one megabyte would be a gigabyte."""
    facts = write(tmp_path, {A: torch.zeros(1000)})
    same = {f"model.backbone.{i}": facts[A] for i in range(1000)}
    (tmp_path / METADATA).write_bytes(pickled(metadata_of(same, Writer())))
    with pytest.raises(WeightsError, match="several tensors claim the same bytes"):
        read_dcp(tmp_path)


def test_twenty_thousand_pieces_are_looked_through_once() -> None:
    """Compared in pairs they would take minutes."""
    boxes: list[Piece] = [((i, 0), (1, 7)) for i in range(20_000)]
    assert covers((20_000, 7), boxes[::-1])
    assert not covers((20_000, 7), [*boxes[:-1], boxes[0]])


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=3), st.lists(st.integers(1, 4), min_size=1, max_size=3), st.data()
)
def test_a_grid_covers_and_a_grid_with_one_box_changed_does_not(rows: list[int], cols: list[int], data: Any) -> None:
    boxes = [((sum(rows[:r]), sum(cols[:c])), (rows[r], cols[c])) for r in range(len(rows)) for c in range(len(cols))]
    shape = (sum(rows), sum(cols))
    assert covers(shape, data.draw(st.permutations(boxes)))
    at = data.draw(st.integers(0, len(boxes) - 1))
    (r, c), (h, w) = boxes[at]
    moved = data.draw(
        st.sampled_from([((r + 1, c), (h, w)), ((r, c + 1), (h, w)), ((r, c), (h + 1, w)), ((r, c), (h, w + 1))])
    )
    assert not covers(shape, [*boxes[:at], moved, *boxes[at + 1 :]])
    assert not covers(shape, boxes[:at] + boxes[at + 1 :])


VALUES = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        1,
        2,
        3,
        4,
        10**12,
        -(10**12),
        2**63,
        2**64,
        10**40,
        "text",
        "../x",
        "__0_0.distcp",
        b"a",
        1.5,
        [],
        {},
        (),
    ]
) | st.tuples(st.integers(-1, 5), st.integers(-1, 5))


@st.composite
def odd_metadata(draw: st.DrawFn, facts: Any) -> bytes:
    """True metadata with some of their values replaced, or some of their bytes."""
    writer = Writer(draw(st.sampled_from([as_table, beside_nothing, as_row])), draw(st.sampled_from(sorted(ENUMS))))
    whole = metadata_of(facts, writer)
    spots: list[tuple[Any, Any]] = []

    def collect(value: Any) -> None:
        if isinstance(value, Record):
            spots.extend((value, part) for part in ("args", "state") if getattr(value, part))
            collect(value.args)
            collect(value.state)
        elif isinstance(value, dict):
            spots.extend((value, key) for key in value)
            for key, inner in value.items():
                collect(key)
                collect(inner)
        elif isinstance(value, list | tuple):
            spots.extend((value, i) for i in range(len(value)) if isinstance(value, list))
            for inner in value:
                collect(inner)

    collect(whole)
    for at in draw(st.lists(st.integers(0, len(spots) - 1), max_size=3)):
        owner, key = spots[at]
        value = draw(VALUES)
        if isinstance(owner, Record):
            setattr(owner, key, value if key == "state" or isinstance(value, tuple) else (value,))
        else:
            owner[key] = value
    data = bytearray(pickled(whole, objects=draw(st.booleans())))
    for at, byte in draw(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=2)):
        data[at] = byte
    cut = draw(st.integers(0, 3))
    return bytes(data) if cut else bytes(data[: draw(st.integers(0, len(data)))])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path = tmp_path_factory.mktemp("dcp")
    return path, write(path, split=in_rows)


def check_odd_metadata(folder: tuple[Path, Any], data: st.DataObject) -> None:
    path, facts = folder
    (path / METADATA).write_bytes(data.draw(odd_metadata(facts)))
    modules = set(sys.modules)
    classes = [dict(vars(kind)) for kind in (pathlib.PosixPath, torch_records.Metadata, torch_records.TensorProperties)]
    refusal = f"{path}: "
    try:
        found, _ = read_dcp(path)
        assert sum(t.nbytes for t in found.values()) <= (path / "__0_0.distcp").stat().st_size
    except WeightsError as error:
        refusal = str(error)
    assert len(refusal.splitlines()) == 1
    assert refusal.startswith(str(path))
    assert set(sys.modules) == modules
    kinds = (pathlib.PosixPath, torch_records.Metadata, torch_records.TensorProperties)
    assert [dict(vars(kind)) for kind in kinds] == classes


QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(deadline=None, suppress_health_check=QUIET)
@given(st.data())
def test_odd_metadata_are_one_line_and_change_nothing(folder: tuple[Path, Any], data: st.DataObject) -> None:
    check_odd_metadata(folder, data)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@settings(max_examples=10_000, deadline=None, suppress_health_check=QUIET)
@given(st.data())
def test_ten_thousand_odd_metadata_are_one_line(folder: tuple[Path, Any], data: st.DataObject) -> None:
    check_odd_metadata(folder, data)
