"""What is taken in: every place a photo can be named by, and what a damaged container loses."""

import os
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from containers import hugging_face_parquet, tar_of
from fsspec.implementations.local import LocalFileSystem
from lab_data_set import noise, png

from tintlab.data.decoding.images import Undecodable
from tintlab.data.preparation.out_folder import existing
from tintlab.data.preparation.tasks import hash_task
from tintlab.data.sources.inputs import Input, count_of, inputs_of, require_image_columns
from tintlab.data.sources.listing import Source, list_sources
from tintlab.data.sources.photo_bytes import PhotoReader
from tintlab.data.storage import resolve
from tintlab.errors import ConfigError, EnvironmentFault

PHOTOS = {f"{seed:03}.png": png(noise(20, 24, seed)) for seed in range(5)}


def names(*sources: object) -> list[str]:
    return [file.name for file in list_sources([str(source) for source in sources], "/out").files]


def write(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(path.encode())


def test_files_are_named_from_the_folder_that_was_given(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    write(folder, "a.jpg", "cats/b.jpg", "cats/old/b.jpg", "dogs/b.jpg", "odd [1].jpg")
    everything = ["a.jpg", "cats/b.jpg", "cats/old/b.jpg", "dogs/b.jpg", "odd [1].jpg"]
    assert names(folder) == [f"photos/{path}" for path in everything]
    assert names(folder / "a.jpg", folder / "odd [1].jpg") == ["a.jpg", "odd [1].jpg"]
    # Files of the same name in different folders stay apart, and folders that match are searched.
    assert names(folder / "*" / "b.jpg") == ["photos/cats/b.jpg", "photos/dogs/b.jpg"]
    assert names(folder / "c*") == ["photos/cats/b.jpg", "photos/cats/old/b.jpg"]
    assert names(f"file://{folder}/cats", folder / "cats" / "b.jpg") == ["b.jpg", "cats/old/b.jpg"]
    with pytest.raises(EnvironmentFault, match=r"there is no photo or folder .*/x\*"):
        names(folder / "x*")


def test_hidden_files_are_left_out_and_counted(tmp_path: Path) -> None:
    write(tmp_path / "photos", "a.jpg", ".DS_Store", ".cache/b.jpg", ".cache/deep/c.jpg")
    listing = list_sources([str(tmp_path / "photos")], "/out")
    assert [file.name for file in listing.files] == ["photos/a.jpg"]
    assert listing.left_out == 3
    assert names(tmp_path / "photos" / ".cache" / "b.jpg") == ["b.jpg"]  # asked for by name


def test_links_in_a_circle_end_and_folders_that_are_closed_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos"
    write(folder, "a.jpg", "closed/b.jpg")
    (folder / "loop").symlink_to(folder)
    scandir = os.scandir

    def closed(path: str):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)  # root may look into any folder
    files = list_sources([str(folder)], "/out").files
    assert [file.name for file in files] == ["photos/a.jpg", "photos/closed", "photos/loop"]
    reasons = [inputs_of(file).inputs[0].reason for file in files]
    assert reasons == ["", "no_permission", "not_a_file"]


def test_a_list_names_files_line_by_line(tmp_path: Path) -> None:
    write(tmp_path / "data", "a.jpg", "b c.jpg", ".hidden.jpg")
    (tmp_path / "lists").mkdir()
    listed = tmp_path / "lists" / "train.txt"
    lines = ["# photos", "../data/a.jpg", "", "../data/b c.jpg", f"{tmp_path}/data/.hidden.jpg"]
    lines += ["https://user:secret@example.org/x.jpg?signature=secret", "../data/gone.jpg"]
    listed.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert names(f"@{listed}") == [
        "../data/a.jpg",
        "../data/b c.jpg",
        "../data/gone.jpg",
        f"{tmp_path}/data/.hidden.jpg",
        "https://example.org/x.jpg",
    ]
    found = list_sources([f"@{listed}"], "/out").files
    assert inputs_of(found[2]).inputs[0].reason == "vanished"
    assert inputs_of(found[0]).inputs[0].sha256 is not None
    with pytest.raises(EnvironmentFault, match="there is no photo or folder @/nowhere.txt"):
        names("@/nowhere.txt")


def test_any_storage_of_fsspec_will_do() -> None:
    memory = fsspec.filesystem("memory")
    for name, data in PHOTOS.items():
        memory.pipe_file(f"/sources/photos/{name}", data)
    memory.pipe_file("/sources/more.tar", tar_of(PHOTOS))
    with memory.open("/sources/table.parquet", "wb") as stream:
        pq.write_table(pa.table({"jpg": list(PHOTOS.values())}), stream)
    listing = list_sources(["memory://sources/photos", "memory://sources/*.*"], "/out")
    assert [file.name for file in listing.files] == [
        *(f"photos/{name}" for name in PHOTOS),
        "sources/more.tar",
        "sources/table.parquet",
    ]
    task = {"files": [[file.uri, file.name] for file in listing.files], "image_column": None}
    inputs = [Input(*item) for item in hash_task(task)["inputs"]]
    assert len(inputs) == 15
    with PhotoReader() as reader:
        assert [reader.read(item.place) for item in inputs] == list(PHOTOS.values()) * 3


def test_storage_that_refuses_is_one_line_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoCredentialsError(Exception):
        """As botocore raises it: no OSError."""

    def refuse(*_: object) -> None:
        raise NoCredentialsError("Unable to locate\ncredentials")

    monkeypatch.setattr(fsspec.implementations.memory.MemoryFileSystem, "isdir", refuse)
    with pytest.raises(EnvironmentFault) as refused:
        names("memory://me:secret@bucket/photos")
    assert str(refused.value) == (
        "cannot list memory://bucket/photos: Unable to locate credentials; check the address and "
        "your credentials"
    )


def test_a_place_that_lets_nobody_look_is_one_line() -> None:
    class Shut(fsspec.implementations.memory.MemoryFileSystem):
        protocol = "shut"

        def exists(self, path: str, **_: object) -> bool:
            raise RuntimeError("Unable to locate credentials")

    fsspec.register_implementation("shut", Shut, clobber=True)
    with pytest.raises(EnvironmentFault, match=r"cannot look into shut://bucket/set: Unable to"):
        existing(*resolve("shut://bucket/set"), {})


def test_a_file_that_may_not_be_read_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "a.jpg")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(LocalFileSystem, "_open", refuse)  # root may read anything
    (item,) = inputs_of(Source(str(tmp_path / "a.jpg"), "a.jpg")).inputs
    assert (item.sha256, item.reason) == (None, "no_permission")


def test_a_tar_gives_its_images_by_place(tmp_path: Path) -> None:
    files = {
        "0001.jpg": b"first",
        "0001.json": b"{}",
        "deep/0002.seg.PNG": b"second",
        "deep/._0002.png": b"resource fork",
        "../../0003.webp": b"",
    }
    path = tmp_path / "set.tar"
    path.write_bytes(tar_of(files))
    found = inputs_of(Source(str(path), "photos/set.tar"))
    assert [item.name for item in found.inputs] == [
        "photos/set.tar/0001.jpg",
        "photos/set.tar/deep/0002.seg.PNG",
        "photos/set.tar/../../0003.webp",
    ]
    assert found.left_out == 2
    assert count_of(Source(str(path), "set.tar")) == 3
    with PhotoReader() as reader:
        assert [reader.read(item.place) for item in found.inputs] == [b"first", b"second", b""]


def test_a_tar_cut_anywhere_keeps_what_is_whole_and_counts_the_rest_as_one(tmp_path: Path) -> None:
    whole = tar_of({**PHOTOS, "label.txt": b"cat"})
    source = Source(str(tmp_path / "set.tar"), "set.tar")
    ends = [item.place.first_byte + item.place.length_bytes for item in _of(source, whole)]
    mark = whole.index(b"cat") + 512  # blocks of zeros end a tar
    for cut in sorted({*range(0, len(whole), 333), *range(512, len(whole), 1024), *ends}):
        *photos, last = _of(source, whole[:cut])
        if cut >= mark + 512:  # only padding is missing
            assert (len(photos), last.reason) == (4, "")
            continue
        complete = [end for end in ends if end <= cut]
        assert len(photos) == len(complete), cut
        assert [item.name for item in photos] == [f"set.tar/{n}" for n in PHOTOS][: len(complete)]
        assert all(item.sha256 for item in photos)
        assert (last.name, last.sha256) == ("set.tar", None)
        assert last.reason == ("truncated" if cut else "empty"), (cut, last)
        assert count_of(source) == len(photos) + 1


def _of(source: Source, data: bytes) -> list[Input]:
    Path(source.uri).write_bytes(data)
    return inputs_of(source).inputs


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"no tar" * 1000, "damaged"),
        (tar_of({"read.me": b"text"}), "no_images"),
        (tar_of({}), "no_images"),
        (bytes(10240), "no_images"),
    ],
)
def test_a_tar_without_images_is_one_quarantined_input(
    tmp_path: Path, data: bytes, reason: str
) -> None:
    (item,) = _of(Source(str(tmp_path / "x.tar"), "x.tar"), data)
    assert (item.name, item.reason) == ("x.tar", reason)


def test_a_tar_with_a_broken_header_inside_says_that_it_lost_something(tmp_path: Path) -> None:
    data = bytearray(tar_of(PHOTOS))
    source = Source(str(tmp_path / "x.tar"), "x.tar")
    third = _of(source, bytes(data))[2].place.first_byte
    data[third - 512 : third - 412] = b"\xff" * 100
    *photos, last = _of(source, bytes(data))
    assert len(photos) == 2
    assert last.reason == "damaged"
    assert "2 images were taken before" in last.message


def test_links_in_a_tar_are_not_followed(tmp_path: Path) -> None:
    import tarfile

    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo("secret.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    (item,) = inputs_of(Source(str(path), "x.tar")).inputs
    assert (item.name, item.reason) == ("x.tar/secret.jpg", "not_a_file")


def test_a_compressed_tar_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(b"\x1f\x8b")
    (item,) = inputs_of(Source(str(tmp_path / "x.tar.gz"), "x.tar.gz")).inputs
    assert (item.reason, item.message) == (
        "unsupported_format",
        "a compressed tar; decompress it to a .tar",
    )


def test_the_parquet_files_of_image_data_sets(tmp_path: Path) -> None:
    photos = [(name, data) for name, data in PHOTOS.items()]
    path = tmp_path / "train-00000.parquet"
    hugging_face_parquet(path, [*photos, (None, b"x"), ("lost.jpg", None)], row_group_size=3)
    source = Source(str(path), "set/train-00000.parquet")
    inputs = inputs_of(source).inputs
    assert [item.name.removeprefix("set/train-00000.parquet/") for item in inputs] == [
        *PHOTOS,
        "00000005",
        "lost.jpg",
    ]
    assert inputs[-1].reason == "empty"
    assert count_of(source) == 7
    with PhotoReader() as reader:
        forward = [reader.read(item.place) for item in inputs[:6]]
        backward = [reader.read(item.place) for item in inputs[5::-1]]
    assert forward == [*PHOTOS.values(), b"x"] == backward[::-1]


def parquet(path: Path, **columns: object) -> Source:
    pq.write_table(pa.table(columns), path)
    return Source(str(path), path.name, named=True)


def test_a_column_of_images_is_found_or_asked_for(tmp_path: Path) -> None:
    images = list(PHOTOS.values())
    for column in ("image", "jpg", "bytes", "Image", "anything"):
        source = parquet(tmp_path / "a.parquet", label=[1, 2, 3, 4, 5], **{column: images})
        assert len(inputs_of(source).inputs) == 5, column
    beside = parquet(tmp_path / "a.parquet", embedding=[b"no image"] * 5, image=images)
    assert inputs_of(beside).inputs[0].sha256 == inputs_of(source).inputs[0].sha256

    two = parquet(tmp_path / "b.parquet", before=images, after=images)
    message = (
        r"b.parquet: which of before, after holds the images is not clear; its columns are "
        r"before \(binary\), after \(binary\); name it with --image-column"
    )
    with pytest.raises(ConfigError, match=message):
        require_image_columns([two], None)
    require_image_columns([two], "after")
    assert len(inputs_of(two, "after").inputs) == 5
    with pytest.raises(ConfigError, match="no column 'middle' of bytes"):
        require_image_columns([two], "middle")

    none = parquet(tmp_path / "c.parquet", label=[1], name=["a"])
    with pytest.raises(ConfigError, match=r"c.parquet: no column of image bytes; its columns are"):
        require_image_columns([none], None)
    # One that merely lies in a folder must not stop everything else.
    require_image_columns([Source(none.uri, none.name)], None)
    (item,) = inputs_of(none).inputs
    assert item.reason == "no_image_column"


def test_a_parquet_file_cut_short_is_one_quarantined_input(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    hugging_face_parquet(path, list(PHOTOS.items()))
    whole = path.read_bytes()
    for cut, reason in ((0, "empty"), (2, "damaged"), (len(whole) // 2, "truncated")):
        (item,) = _of(Source(str(path), path.name), whole[:cut])
        assert (item.name, item.reason) == ("a.parquet", reason)
    (item,) = _of(Source(str(path), path.name), b"text" * 100)
    assert item.reason == "damaged"
    for at in np.linspace(4, len(whole) // 2, 20).astype(int):  # damage inside: nothing is raised
        inputs = _of(Source(str(path), path.name), whole[:at] + b"\xff" * 40 + whole[at + 40 :])
        assert inputs
        assert all(item.sha256 or item.reason for item in inputs)


def test_one_enormous_file_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "huge.jpg"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    (item,) = inputs_of(Source(str(path), "huge.jpg")).inputs
    assert item.reason == "too_many_bytes"


def test_bytes_that_changed_in_between_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    hugging_face_parquet(path, list(PHOTOS.items()))
    inputs = inputs_of(Source(str(path), path.name)).inputs
    hugging_face_parquet(path, list(PHOTOS.items())[:2])
    with PhotoReader() as reader:
        last = reader.read(inputs[-1].place)
        assert isinstance(last, Undecodable)
        assert last.reason == "vanished"
        assert reader.read(inputs[1].place) == PHOTOS["001.png"]
