from __future__ import annotations

import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinov3.data.decode import AVIF, decode
from dinov3.data.errors import BadImage, DataError
from dinov3.data.sources import imagefolder, open_dataset, parse_dataset
from dinov3.data.sources.heldout import HeldOut
from dinov3.data.sources.imagefolder import ImageFolder
from dinov3.data.storage import index_cache
from dinov3.data.storage.left_out import lines


def picture(path: Path | bytes, value: int = 0) -> None:
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    with open(path, "wb") as file:
        Image.fromarray(np.full((8, 8, 3), value, dtype=np.uint8)).save(file, "PNG")


def touch_later(folder: Path) -> None:
    """Some file systems keep whole seconds only."""
    later = time.time() + 5
    os.utime(folder, (later, later))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for i, name in enumerate(["b/2.png", "b/1.PNG", "a/deep/er/3.jpeg", "a/4.png"]):
        picture(root / name, 10 * i)
    (root / "b" / "notes.txt").write_text("x")
    (root / "a" / "extra.npy").write_bytes(b"x")
    return root


def test_images_are_found_at_every_depth_in_the_order_of_their_paths(tree: Path) -> None:
    source = ImageFolder(tree)
    names = [os.path.relpath(source.name(i), tree) for i in range(len(source))]
    assert names == ["a/4.png", "a/deep/er/3.jpeg", "b/1.PNG", "b/2.png"]
    assert [int(decode(source.read(i))[0, 0, 0]) for i in range(4)] == [30, 20, 10, 0]


def test_the_class_is_the_first_folder_in_sorted_order(tree: Path) -> None:
    source = ImageFolder(tree)
    assert [source.label(i) for i in range(4)] == [0, 0, 1, 1]
    assert source.classes == ["a", "b"]


def test_images_in_the_root_have_no_class(tree: Path) -> None:
    picture(tree / "0.png")
    source = ImageFolder(tree)
    labels = {os.path.basename(source.name(i)): source.label(i) for i in range(len(source))}
    assert labels == {"0.png": None, "4.png": 0, "3.jpeg": 0, "1.PNG": 1, "2.png": 1}


def test_labels_can_be_left_out(tree: Path) -> None:
    source = parse_dataset(f"ImageFolder:root={tree}:labels=none")
    assert {source.label(i) for i in range(4)} == {None}


def named(root: Path, pattern: str) -> dict[str, str | None]:
    """Path below the root -> its class."""
    source = parse_dataset(f"ImageFolder:root={root}:class_of={pattern}")
    classes = source.classes or []
    labels = {os.path.relpath(source.name(i), root): source.label(i) for i in range(len(source))}
    return {
        name: None if label is None else classes[label] if classes else str(label) for name, label in labels.items()
    }


def test_classes_are_found_in_paths_by_a_regular_expression(tmp_path: Path) -> None:
    for name in ("p1_tumor_1.png", "p2_normal_1.png", "sub/p1_tumor_2.png", "other.png"):
        picture(tmp_path / name)
    assert named(tmp_path, r"_([a-z]+)_\d") == {
        "other.png": None,
        "p1_tumor_1.png": "tumor",
        "p2_normal_1.png": "normal",
        "sub/p1_tumor_2.png": "tumor",
    }
    assert set(named(tmp_path, r"tumor|normal").values()) == {None, "tumor", "normal"}
    assert set(named(tmp_path, r"(?<=^p)\d").values()) == {None, "1", "2"}
    assert named(tmp_path, r"(sub)?/p1")["sub/p1_tumor_2.png"] == "sub"
    assert set(named(tmp_path, r"(?\:tumor|normal)").values()) == {None, "tumor", "normal"}


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("(tumor", "is not a regular expression: missing )"),
        ("(tu)(mor)", "has 2 groups: one is the class"),
        ("benign", "is in no path, not even in a/4.png"),
        ("x?", "is in no path"),
    ],
)
def test_a_regular_expression_that_finds_no_class_is_one_line(tree: Path, pattern: str, problem: str) -> None:
    with pytest.raises(DataError) as error:
        parse_dataset(f"ImageFolder:root={tree}:class_of={pattern}")
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


def test_links_are_followed_and_loops_and_broken_links_survive(tree: Path, tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere" / "5.png")
    (tree / "c").symlink_to(tmp_path / "elsewhere")
    (tree / "a" / "loop").symlink_to(tree)
    (tree / "a" / "itself").symlink_to(tree / "a" / "itself")
    (tree / "gone.png").symlink_to(tmp_path / "nothing.png")
    (tree / "linked.png").symlink_to(tree / "b" / "2.png")
    source = ImageFolder(tree)
    names = [os.path.relpath(source.name(i), tree) for i in range(len(source))]
    assert names == ["a/4.png", "a/deep/er/3.jpeg", "b/1.PNG", "b/2.png", "c/5.png", "linked.png"]


def test_hidden_files_and_folders_are_passed_over(tree: Path) -> None:
    picture(tree / ".thumbnails" / "1.png")
    picture(tree / "a" / "._4.png")
    assert len(ImageFolder(tree)) == 4
    assert ImageFolder(tree).left_out["hidden folders"] == 1


def test_other_files_are_counted(tree: Path) -> None:
    for name in ("1.heic", "2.HEIC", "notes", ".hidden", "scans.zip", "clip.mp4"):
        (tree / name).write_bytes(b"x")
    (tree / "gone.png").symlink_to(tree / "nothing.png")
    os.mkfifo(tree / "pipe.png")
    assert ImageFolder(tree).left_out == {
        ".heic: not a format read here": 2,
        ".txt: no image file": 1,
        ".npy: no image file": 1,
        ".zip: an archive, which is not opened": 1,
        ".mp4: a video: extract its frames": 1,
        "files without a suffix: no image file": 1,
        "hidden files": 1,
        "broken links": 1,
        "pipes and devices": 1,
    }


def test_names_need_not_be_text(tree: Path) -> None:
    picture(os.fsencode(tree) + b"/a/caf\xe9\n.png", 99)
    source = ImageFolder(tree)
    index = next(i for i in range(len(source)) if "caf" in source.name(i))
    assert source.name(index).endswith("/a/caf\\xe9\\n.png")
    assert decode(source.read(index))[0, 0, 0] == 99


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: None, "there is no such folder"),
        (lambda path: path.write_text("x"), "is not a folder"),
        (lambda path: path.mkdir(), r"contains no images \(no other files\); images end in \.jpg"),
        (
            lambda path: (path.mkdir(), (path / "a.txt").write_text("x")),
            r"contains no images \(1 \.txt left out: no image file\)",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_is_a_data_error(tmp_path: Path, make: object, problem: str) -> None:
    make(tmp_path / "data")  # type: ignore[operator]
    with pytest.raises(DataError, match=problem):
        ImageFolder(tmp_path / "data")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission_is_a_data_error(tree: Path) -> None:
    (tree / "b").chmod(0)
    with pytest.raises(DataError, match="b: cannot be listed; check its permissions"):
        ImageFolder(tree)
    (tree / "b").chmod(0o755)


def test_a_folder_that_may_not_be_listed_is_a_data_error(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="cannot be listed; check its permissions"):
        ImageFolder(tree)


def test_the_list_is_kept_and_not_made_again(tree: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ImageFolder(tree)
    assert list((own_cache / "dinov3" / "folders").iterdir())
    monkeypatch.setattr(imagefolder, "walk", lambda _: pytest.fail("listed again"))
    second = ImageFolder(tree)
    assert [second.name(i) for i in range(4)] == [first.name(i) for i in range(4)]
    assert [second.label(i) for i in range(4)] == [first.label(i) for i in range(4)]
    assert second.fingerprint() == first.fingerprint()


def test_the_list_is_made_again_when_a_folder_changed(tree: Path) -> None:
    before = ImageFolder(tree).fingerprint()
    picture(tree / "a" / "deep" / "6.png")
    touch_later(tree / "a" / "deep")
    source = ImageFolder(tree)
    assert len(source) == 5
    assert source.fingerprint() != before


def test_old_lists_do_not_pile_up(tree: Path, own_cache: Path) -> None:
    for i in range(4):
        picture(tree / "a" / f"new{i}.png")
        touch_later(tree / "a")
        os.utime(tree / "a", (i, i))
        ImageFolder(tree)
    assert len(list((own_cache / "dinov3" / "folders").iterdir())) == 3  # the pointer, its lock and one list


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"version": 1}', b"null", b"\xff\xfe"])
def test_a_damaged_list_is_made_again(tree: Path, own_cache: Path, damage: bytes) -> None:
    ImageFolder(tree)
    (pointer,) = (own_cache / "dinov3" / "folders").glob("*.json")
    pointer.write_bytes(damage)
    assert len(ImageFolder(tree)) == 4
    assert len(ImageFolder(tree)) == 4


def test_a_list_that_lost_an_array_is_made_again(tree: Path, own_cache: Path) -> None:
    ImageFolder(tree)
    for path in own_cache.rglob("labels.npy"):
        path.unlink()
    assert [ImageFolder(tree).label(i) for i in range(4)] == [0, 0, 1, 1]


def test_without_a_cache_folder_everything_works(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    source = pickle.loads(pickle.dumps(ImageFolder(tree)))
    assert [source.label(i) for i in range(4)] == [0, 0, 1, 1]


def test_a_source_pickles_small_however_many_images_it_has(tmp_path: Path) -> None:
    root = tmp_path / "many"
    for i in range(300):
        (root / f"{i % 7}").mkdir(parents=True, exist_ok=True)
        (root / f"{i % 7}" / f"a rather long name of a picture {i}.png").write_bytes(b"x")
    source = ImageFolder(root)
    data = pickle.dumps(source)
    assert len(data) < 1000
    copy = pickle.loads(data)
    assert [copy.name(i) for i in range(300)] == [source.name(i) for i in range(300)]


def test_a_huge_file_is_not_read(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagefolder, "MAX_BYTES", 10)
    with pytest.raises(BadImage, match="bytes, more than 10"):
        ImageFolder(tree).read(0)


def test_a_file_that_vanished_is_an_os_error(tree: Path) -> None:
    source = ImageFolder(tree)
    os.unlink(source.path(0))
    with pytest.raises(FileNotFoundError):
        source.read(0)


@pytest.mark.parametrize("folder", ["train", "TRAIN"])
def test_imagenet_is_a_split_of_class_folders(tmp_path: Path, folder: str) -> None:
    picture(tmp_path / folder / "n01440764" / "n01440764_1.JPEG")
    picture(tmp_path / folder / "n01443537" / "n01443537_1.JPEG")
    source = parse_dataset(f"ImageNet:split=TRAIN:root={tmp_path}:extra={tmp_path}/extra")
    assert [source.label(i) for i in range(2)] == [0, 1]
    with pytest.raises(DataError, match="val: there is no such folder"):
        parse_dataset(f"ImageNet:split=VAL:root={tmp_path}")


def test_lists_are_kept_where_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert index_cache.cache_root() == Path("/somewhere/dinov3")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert index_cache.cache_root() == Path.home() / ".cache" / "dinov3"


def run_folder(path: Path) -> None:
    picture(path / "curves.png")
    picture(path / "pictures" / "pca-10.png")
    (path / "config.json").write_text("{}")
    (path / "run.log").write_text("")


def test_the_pictures_of_a_run_are_no_data(tree: Path) -> None:
    before = ImageFolder(tree).fingerprint()
    run_folder(tree / "a" / "runs" / "first")
    touch_later(tree / "a")
    source = ImageFolder(tree)
    assert source.left_out["folders of runs: their pictures are no data"] == 1
    assert source.fingerprint() == before
    run_folder(tree)
    touch_later(tree)
    with pytest.raises(DataError, match="is the folder of a run, whose pictures are no data: move the run elsewhere"):
        ImageFolder(tree)


@pytest.mark.parametrize("inside", ["", "run", "a/deep/run", "../link/run"])
def test_a_run_folder_inside_the_images_is_refused(tree: Path, inside: str) -> None:
    (tree.parent / "link").symlink_to(tree)
    for text in (str(tree), [str(tree), "Synthetic:n=5"]):
        with pytest.raises(DataError, match=r"lies inside the images, .*: give a folder outside of it"):
            imagefolder.refuse_output_inside(open_dataset(text), tree / inside)
    with pytest.raises(DataError, match="lies inside the images"):
        imagefolder.refuse_output_inside(HeldOut(ImageFolder(tree), "train", np.array([0])), tree / inside)
    for outside in ("..", "../run", "../data2"):
        imagefolder.refuse_output_inside(open_dataset([str(tree), "Synthetic:n=5"]), tree / outside)
    imagefolder.refuse_output_inside(parse_dataset("Synthetic:n=5"), tree / inside)


@pytest.mark.skipif(not AVIF, reason="this Pillow reads no AVIF")
def test_avif_is_found_and_read_where_pillow_reads_it(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (100, 100, 100)).save(tmp_path / "a.avif")
    picture(tmp_path / "b.JPG", 100)
    source = ImageFolder(tmp_path)
    assert (len(source), source.left_out) == (2, {})
    assert abs(int(decode(source.read(0))[0, 0, 0]) - 100) < 4


def test_a_format_that_cannot_be_read_here_is_said_to_be_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imagefolder, "SUFFIXES", (b".jpg",))
    for n in range(34):
        (tmp_path / f"{n}.avif").write_bytes(b"x")
    picture(tmp_path / "a.JPG")
    assert lines(ImageFolder(tmp_path).left_out) == ["34 .avif left out: not a format read here"]
