"""Files of torch.save: read as torch reads them, and never more than they hold."""

from __future__ import annotations

import argparse
import collections
import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from dinov3.weights.files import read_weights
from dinov3.weights.reading.errors import WeightsError
from dinov3.weights.reading.pickle_records import PERSISTENT, Name, Record
from dinov3.weights.reading.torch_archive import DamagedArchive
from dinov3.weights.reading.torch_file import Plan, TorchFile
from tests.weights.reading.opcodes import pickled

FORMS = [{}, {"_use_new_zipfile_serialization": False}]


def opened(content: bytes) -> TorchFile:
    return TorchFile(io.BytesIO(content), len(content))


def many_kinds() -> dict[str, Tensor]:
    base = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    flagged = torch.nn.Parameter(torch.ones(2))
    flagged.no_decay = True  # type: ignore[attr-defined]
    return {
        "plain": base,
        "again": base,
        "part": base[1:3, ::2],
        "turned": base.t(),
        "half": base.half(),
        "bf16": base.bfloat16(),
        "double": base.double(),
        "counts": torch.arange(3),
        "flags": torch.tensor([True, False]),
        "empty": torch.zeros(0, 5),
        "scalar": torch.tensor(1.5),
        "parameter": torch.nn.Parameter(base),
        "flagged": flagged,
        "in channels last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("form", FORMS, ids=["zip", "before 1.6"])
def test_tensors_are_those_that_torch_reads(form: dict[str, Any], protocol: int) -> None:
    torch.save(
        {"state": many_kinds(), "args": argparse.Namespace(lr=1)},
        file := io.BytesIO(),
        pickle_protocol=protocol,
        **form,
    )
    read = opened(file.getvalue())
    for name, expected in many_kinds().items():
        plan = read.plan(read.content["state"][name])
        assert isinstance(plan, Plan), (name, plan)
        if name != "in channels last":
            assert torch.equal(read.tensor(plan), expected)
        assert (plan.shape, plan.strides, plan.dtype) == (tuple(expected.shape), expected.stride(), expected.dtype)
    assert read.plan(read.content["args"]) == "argparse.Namespace"


def kinds() -> dict[str, tuple[Tensor, str]]:
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    return {
        "sparse": (torch.eye(3).to_sparse(), "a sparse tensor"),
        "csr": (torch.eye(3).to_sparse_csr(), "a sparse tensor"),
        "meta": (torch.empty(3, device="meta"), "a meta tensor"),
        "nested": (nested, "a nested tensor"),
        "quantised": (torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "a quantised tensor"),
        "expanded": (torch.ones(1).expand(10**6, 1000), "a tensor larger than its bytes in the file"),
        "conjugate": (torch.ones(2, dtype=torch.complex64).conj(), "larger than its bytes|unusual|tensor"),
        "complex": (torch.ones(2, dtype=torch.complex64), "of torch.complex64"),
        "counts": (torch.arange(3), "of torch.int64"),
    }


@pytest.mark.filterwarnings("ignore:.*(nested|Sparse|quantiz).*")
@pytest.mark.parametrize("kind", kinds())
def test_what_is_no_dense_tensor_of_floats_is_named_and_never_made(kind: str, tmp_path: Path) -> None:
    tensor, words = kinds()[kind]
    torch.save({"cls_token": tensor}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=rf"x\.pth: cls_token is .*({words})") as caught:
        read_weights(tmp_path / "x.pth")
    assert len(str(caught.value).splitlines()) == 1


def with_pickle(value: Any, storages: dict[str, bytes], **options: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x/data.pkl", value if isinstance(value, bytes) else pickled(value, **options))
        archive.writestr("x/byteorder", b"little")
        for key, content in storages.items():
            archive.writestr(f"x/data/{key}", content)
    return buffer.getvalue()


def tensor_of(
    shape: Any, strides: Any, offset: Any = 0, count: Any = 6, key: Any = "0", kind: str = "FloatStorage"
) -> Record:
    storage = Record(PERSISTENT, (("storage", Name("torch", kind), key, "cpu", count),))
    hooks = Record(Name("collections", "OrderedDict"), ())
    return Record(Name("torch._utils", "_rebuild_tensor_v2"), (storage, offset, shape, strides, False, hooks))


def test_a_tensor_made_by_hand_is_read() -> None:
    numbers = torch.arange(6.0)
    read = opened(with_pickle({"a": tensor_of((2, 3), (3, 1))}, {"0": numbers.numpy().tobytes()}))
    plan = read.plan(read.content["a"])
    assert isinstance(plan, Plan)
    assert torch.equal(read.tensor(plan), numbers.reshape(2, 3))


ODD = [
    tensor_of((10**12,), (1,)),
    tensor_of((10**12,), (0,)),
    tensor_of((7,), (0,)),
    tensor_of((2, 3), (3, 1), offset=1),
    tensor_of((2, 3), (3, 1), offset=-1),
    tensor_of((2, -3), (3, 1)),
    tensor_of((2, 3), (-3, 1)),
    tensor_of((2, 3), (3,)),
    tensor_of((10**30,), (1,)),
    tensor_of(("2", 3), (3, 1)),
    tensor_of("2", "3"),
    tensor_of((2, 3), (3, 1), count=10**30),
    tensor_of((2, 3), (3, 1), count=-6),
    tensor_of((2, 3), (3, 1), count=None),
    tensor_of((2, 3), (3, 1), key=("0",)),
    tensor_of((2, 3), (3, 1), kind="TextStorage"),
    tensor_of((True, 3), (3, 1)),
    tensor_of((1,) * 9, (1,) * 9),
    tensor_of((0, 2**50, 2**50), (1, 1, 1)),
    Record(Name("torch._utils", "_rebuild_tensor_v2"), ()),
    Record(Name("torch._utils", "_rebuild_tensor_v3"), tensor_of((2, 3), (3, 1)).args),
    Record(Name("torch._utils", "_rebuild_parameter"), ()),
    Record(Name("torch._tensor", "_rebuild_from_type_v2"), (1, 2, 3, 4)),
]


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_sizes_that_do_not_fit_the_file_are_told_before_memory_is_asked_for(odd: Record, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(with_pickle({"a": odd}, {"0": bytes(24)}))
    with pytest.raises(WeightsError, match=r"x\.pth: a is "):
        read_weights(tmp_path / "x.pth")


@pytest.mark.parametrize(("count", "words"), [(10**12, "contradict"), (7, "contradict")])
def test_a_storage_of_another_size_than_its_record_is_refused(count: int, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(with_pickle({"a": tensor_of((2, 3), (3, 1), count=count)}, {"0": bytes(24)}))
    with pytest.raises(WeightsError, match=words):
        read_weights(tmp_path / "x.pth")
    (tmp_path / "x.pth").write_bytes(with_pickle({"a": tensor_of((2, 3), (3, 1))}, {}))
    with pytest.raises(WeightsError, match=r"'x/data/0' is missing in it"):
        read_weights(tmp_path / "x.pth")


def test_many_names_for_the_same_numbers_are_refused(tmp_path: Path) -> None:
    whole = tensor_of((100_000,), (1,), count=100_000)
    (tmp_path / "x.pth").write_bytes(with_pickle({str(i): whole for i in range(50)}, {"0": bytes(400_000)}))
    with pytest.raises(WeightsError, match="larger than the file"):
        read_weights(tmp_path / "x.pth")


@pytest.mark.parametrize("at", [10, 100, 300, -200, -10])
def test_half_a_file_of_before_torch_1_6_ends_early(at: int, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(100)}, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    content = (tmp_path / "x.pth").read_bytes()
    (tmp_path / "x.pth").write_bytes(content[:at])
    with pytest.raises(WeightsError, match="early"):
        read_weights(tmp_path / "x.pth")


def test_programs_and_whole_models_are_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        for name in ("x/data.pkl", "x/constants.pkl", "x/code/model.py"):
            archive.writestr(name, b"")
    with pytest.raises(DamagedArchive, match="TorchScript"):
        opened(buffer.getvalue())
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"holds an object of torch\.nn\.modules\.linear\.Linear, .* state_dict\(\)"):
        read_weights(tmp_path / "x.pth")


SPOTS = st.sampled_from(
    [0, 1, 2, 3, 6, -1, 10**12, 2**63, 10**40, None, True, "0", "x", (), (2,), (2, 3), [1], {}, 1.5, b"a"]
)
QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@st.composite
def odd_files(draw: st.DrawFn) -> bytes:
    args = list(tensor_of((2, 3), (3, 1)).args)
    stored = list(args[0].args[0])
    for at in draw(st.lists(st.integers(0, 9), max_size=3)):
        if at < 5:
            stored[at] = draw(SPOTS)
        else:
            args[at - 4] = draw(SPOTS)
    args[0] = Record(PERSISTENT, (tuple(stored),))
    name = draw(st.sampled_from(["_rebuild_tensor_v2", "_rebuild_tensor", "_rebuild_tensor_v3", "_rebuild_parameter"]))
    table = {"a": Record(Name("torch._utils", name), tuple(args)), "b": tensor_of((3,), (1,))}
    value = draw(
        st.sampled_from([table, {"model": table, "x": 1}, {"state_dict": {"model": table}}, [table], table["a"]])
    )
    data = bytearray(pickled(value))
    for at, byte in draw(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=2)):
        data[at] = byte
    return with_pickle(bytes(data), {"0": bytes(24)})


def check_odd_file(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    modules, refusal = set(sys.modules), str(path)
    try:
        found = read_weights(path).tensors
        assert sum(t.nbytes for t in found.values()) <= 2 * len(content)
    except WeightsError as error:
        refusal = str(error)
    assert refusal.startswith(str(path))
    assert len(refusal.splitlines()) == 1
    assert set(sys.modules) == modules


@settings(deadline=None, suppress_health_check=QUIET)
@given(odd_files())
def test_odd_files_are_read_or_one_line(tmp_path: Path, content: bytes) -> None:
    check_odd_file(tmp_path / "x.pth", content)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@settings(max_examples=10_000, deadline=None, suppress_health_check=QUIET)
@given(odd_files())
def test_ten_thousand_odd_files_are_read_or_one_line(tmp_path: Path, content: bytes) -> None:
    check_odd_file(tmp_path / "x.pth", content)


def test_an_ordered_table_is_one(tmp_path: Path) -> None:
    torch.save(collections.OrderedDict(a=torch.ones(2)), tmp_path / "x.pth")
    assert torch.equal(read_weights(tmp_path / "x.pth").tensors["a"], torch.ones(2))


@pytest.mark.parametrize("form", FORMS, ids=["zip", "before 1.6"])
def test_numbers_are_read_also_where_a_trainer_builds_without_them(form: dict[str, Any], tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pth", **form)
    with torch.device("meta"):
        assert read_weights(tmp_path / "x.pth").tensors["a"].tolist() == [1.0, 1.0]
