"""Archives nobody has vouched for: all of what they hold lands in the folder, or none is taken."""

import gzip
import io
import stat
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fertiray.errors import InputError
from fertiray.serving.archives import kind_of, unpack
from fertiray.serving.limits import Limits

SMALL = replace(Limits(), files=20, unpacked_bytes=10_000)
FILES = {"P1/s1/a.png": b"one", "P1/s2/b ü.png": b"two" * 100, "P2/s1/c.png": b""}


def zip_of(files: dict[str, bytes], **options) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, archive.compression)
    return buffer.getvalue()


def tar_of(files: dict[str, bytes], mode: str = "w", **attributes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in attributes.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def unpacked(data: bytes, folder: Path, limits: Limits = SMALL, strip: int = 0):
    file = folder / "upload"
    file.write_bytes(data)
    counts = unpack(file, folder / "tree", limits, strip=strip, going=lambda: None)
    tree = folder / "tree"
    found = {str(f.relative_to(tree)): f.read_bytes() for f in tree.rglob("*") if f.is_file()}
    assert counts.files == len(found)
    assert counts.bytes == sum(len(data) for data in found.values())
    return found


@pytest.mark.parametrize(
    "data",
    [
        zip_of(FILES),
        zip_of(FILES, compression=zipfile.ZIP_DEFLATED),
        zip_of({name.replace("/", "\\"): data for name, data in FILES.items()}),
        tar_of(FILES),
        tar_of(FILES, "w:gz"),
        tar_of({f"./{name}": data for name, data in FILES.items()}),
    ],
)
def test_every_file_arrives_as_it_was(tmp_path, data):
    assert unpacked(data, tmp_path) == FILES


def test_a_folder_around_it_is_left_out_on_request(tmp_path):
    wrapped = {f"cohort/{name}": data for name, data in FILES.items()}
    assert unpacked(tar_of(wrapped), tmp_path, strip=1) == FILES


def test_zip64_is_read(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        with archive.open("P1/a.png", "w", force_zip64=True) as member:
            member.write(b"one")
        for number in range(70_000):  # more than the old directory can count
            archive.writestr(zipfile.ZipInfo(f"P1/.{number}"), b"")
    with pytest.raises(InputError, match="more than 20 files"):
        unpacked(buffer.getvalue(), tmp_path)


BAD_NAMES = [
    *("../x.png", "P1/../../x.png", "/etc/x.png", "C:/x.png", "P1//x.png", "..", "P1/\x01.png"),
    *("..\\x.png", "P1/" + 300 * "x", "/".join(["d"] * 600), "P1/x\n.png"),
]


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_no_name_leads_out(tmp_path, name, pack):
    with pytest.raises(InputError, match=r"plain relative name|too long|above") as error:
        unpacked(pack({"P1/a.png": b"one", name: b"evil"}), tmp_path)
    assert "\n" not in str(error.value)
    outside = [f for f in tmp_path.rglob("*") if f.is_file() and "tree" not in f.parts]
    assert outside == [tmp_path / "upload"]
    assert not Path("/etc/x.png").exists()


def test_links_and_devices_are_refused(tmp_path):
    link = zipfile.ZipInfo("P1/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    cases = [buffer.getvalue()]
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        cases.append(tar_of({"P1/link": b""}, type=kind, linkname="/etc/passwd"))
    for number, data in enumerate(cases):
        (tmp_path / str(number)).mkdir()
        with pytest.raises(InputError, match="P1/link is a link or a device"):
            unpacked(data, tmp_path / str(number))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a zip, tar"),
        (b"GIF89a" + bytes(600), "not a zip, tar"),
        (zip_of({}), "no files"),
        (tar_of({}), "no end|not a zip|no files"),
        (zip_of({f"P1/{n}": b"" for n in range(21)}), "more than 20 files"),
        (tar_of({f"P1/{n}": b"" for n in range(21)}), "more than 20 files"),
        (zip_of({"P1/a": bytes(10_001)}, compression=zipfile.ZIP_DEFLATED), "P1/a: the archive un"),
        (tar_of({"P1/a": bytes(6000), "P1/b": bytes(6000)}, "w:gz"), "P1/b: the archive unpacks"),
        (zip_of({"P1/a": b"x", "P1/a/b": b"y"}), "twice"),
        (tar_of({"P1/a": b"x", "P1/./a": b"y"}), "twice"),
        (zip_of({"P1/a": b"x"}, compression=zipfile.ZIP_LZMA), "usual compression"),
        (tar_of(FILES)[:600], "damaged|end"),
        (tar_of(FILES)[:1024], "no end"),
        (tar_of(FILES, "w:gz")[:-9], "damaged"),
        (zip_of(FILES)[:-10], "no end"),
        (zip_of(FILES).replace(b"two" * 9, b"owt" * 9), "damaged"),
        (gzip.compress(b"no tar"), "damaged|end"),
    ],
)
def test_an_unusable_archive_is_one_line(tmp_path, data, message):
    with pytest.raises(InputError, match=message) as error:
        unpacked(data, tmp_path)
    assert "\n" not in str(error.value)
    assert str(tmp_path) not in str(error.value)


def test_a_changed_byte_in_gzip_is_noticed(tmp_path):
    data = bytearray(gzip.compress(tar_of(FILES), compresslevel=0))
    place = data.index(b"twotwo")
    data[place] ^= 1
    with pytest.raises(InputError, match="damaged"):
        unpacked(bytes(data), tmp_path)


def test_an_encrypted_zip_says_so(tmp_path):
    data = bytearray(zip_of({"P1/a.png": b"x"}))
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    with pytest.raises(InputError, match=r"P1/a.png is encrypted"):
        unpacked(bytes(data), tmp_path)


def test_a_header_extension_of_gigabytes_is_not_read(tmp_path):
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 4 * 2**30
    with pytest.raises(InputError, match="too long"):
        unpacked(info.tobuf(tarfile.GNU_FORMAT) + bytes(4096), tmp_path)


def test_work_can_be_stopped_between_files(tmp_path):
    class StopError(Exception):
        pass

    def stop():
        raise StopError

    (tmp_path / "upload").write_bytes(zip_of(FILES))
    with pytest.raises(StopError):
        unpack(tmp_path / "upload", tmp_path / "tree", SMALL, going=stop)


BASES = [zip_of(FILES, compression=zipfile.ZIP_DEFLATED), tar_of(FILES), tar_of(FILES, "w:gz")]


@settings(max_examples=300, deadline=None)
@given(
    base=st.sampled_from(BASES),
    changes=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 4000),
)
def test_damage_gives_files_or_one_line_and_never_leaves_the_folder(
    tmp_path_factory, base, changes, cut
):
    data = bytearray(base[: len(base) - cut] if cut < len(base) else base)
    for place, value in changes:
        data[place % len(data)] = value
    folder = tmp_path_factory.mktemp("fuzz", numbered=True)
    file = folder / "upload"
    file.write_bytes(bytes(data))
    try:
        kind_of(file)
        unpack(file, folder / "tree", SMALL, going=lambda: None)
    except InputError as error:
        said = str(error)
    else:
        said = ""
    assert "\n" not in said
    for found in folder.rglob("*"):
        assert found == file or (folder / "tree") in (found, *found.parents)
        assert not found.is_symlink()
