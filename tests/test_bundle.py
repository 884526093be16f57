"""A bundle is read only if every byte is vouched for, and replaced only by a whole one."""

import hashlib
import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.models.bundle import MANIFEST_NAME, decode_manifest, digest_of, encode_manifest, entries, read_bundle
from lamina.models.draft import drafted
from lamina.models.errors import BundleError
from lamina.models.manifest import Manifest, Piece
from tests.tiny_model import SPEC, VALUES, manifest_in, write_bundle

with TemporaryDirectory() as _folder:
    TINY = write_bundle(Path(_folder))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "tiny")
    return tmp_path / "tiny"


def edited(manifest: Manifest, **changes: object) -> bytes:
    """The manifest's JSON with some of its top-level fields changed."""
    return json.dumps({**json.loads(encode_manifest(manifest)), **changes}).encode()


def interrupted(folder: Path) -> None:
    """Write half a bundle."""
    with drafted(folder) as draft:
        draft.add(b"half of it", ".onnx")
        raise KeyboardInterrupt


def test_what_was_written_is_read(tmp_path: Path) -> None:
    manifest = write_bundle(tmp_path / "tiny")
    bundle = read_bundle(tmp_path / "tiny")
    assert bundle.manifest == manifest
    assert bundle.manifest.spec == SPEC
    assert bundle.path(manifest.sub_models[1].graph).read_bytes() == b"trains the second"
    assert {name: tensor.tolist() for name, tensor in bundle.initial_values().items()} == {
        name: tensor.tolist() for name, tensor in VALUES.items()
    }


def test_files_are_named_by_their_content(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != MANIFEST_NAME:
            assert path.stem == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_digest_is_the_manifests(folder: Path) -> None:
    content = (folder / MANIFEST_NAME).read_bytes()
    assert read_bundle(folder).digest == hashlib.sha256(content).hexdigest() == digest_of(content)


def test_the_same_bundle_twice_has_one_digest(tmp_path: Path) -> None:
    write_bundle(tmp_path / "one")
    write_bundle(tmp_path / "two")
    assert read_bundle(tmp_path / "one").digest == read_bundle(tmp_path / "two").digest


def test_the_same_content_twice_is_one_file(tmp_path: Path) -> None:
    with drafted(tmp_path / "tiny") as draft:
        assert draft.add(b"same", ".onnx") == draft.add(b"same", ".onnx")
        assert len(list(draft.folder.iterdir())) == 1
        draft.close(manifest_in(draft))


def test_a_damaged_file_is_named_with_both_digests(folder: Path) -> None:
    entry = read_bundle(folder).manifest.inference
    path = folder / entry.file_name
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError) as error:
        read_bundle(folder)
    for part in (str(path), entry.sha256, hashlib.sha256(content).hexdigest()):
        assert part in str(error.value)


def test_a_file_cut_short_is_named_with_both_sizes(folder: Path) -> None:
    entry = read_bundle(folder).manifest.values
    path = folder / entry.file_name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=f"{entry.size_bytes - 1} bytes, and the manifest says {entry.size_bytes}"):
        read_bundle(folder)


def test_every_file_of_the_manifest_is_verified(folder: Path) -> None:
    for entry in set(entries(read_bundle(folder).manifest)):
        path = folder / entry.file_name
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(BundleError, match=entry.sha256):
            read_bundle(folder)
        path.write_bytes(content)
    read_bundle(folder)


def test_a_folder_that_is_missing_or_no_bundle_is_told(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such folder"):
        read_bundle(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"no manifest\.json"):
        read_bundle(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"format": 1}', b'{"format": "1"}', b"[" * 9999]
)
def test_json_that_is_no_manifest_is_refused(content: bytes) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json: no manifest of a bundle"):
        decode_manifest(content)


@given(st.integers(0, 2000), st.binary(max_size=3))
def test_an_edited_manifest_is_refused_as_a_manifest_or_read_as_one(at: int, patch: bytes) -> None:
    content = bytearray(encode_manifest(TINY))
    content[at : at + len(patch)] = patch
    with suppress(BundleError):
        assert decode_manifest(encode_manifest(found := decode_manifest(bytes(content)))) == found


def test_another_format_is_told_from_a_damaged_manifest(folder: Path) -> None:
    manifest = read_bundle(folder).manifest
    with pytest.raises(BundleError, match="a bundle of format 2; this program reads 1"):
        decode_manifest(b'{"format": 2, "all": "new"}')
    assert decode_manifest(edited(manifest)) == manifest


@pytest.mark.parametrize(
    "entry",
    [
        {"sha256": "../../secret", "size_bytes": 1, "suffix": ".onnx"},
        {"sha256": "a" * 64 + "\n", "size_bytes": 1, "suffix": ".onnx"},
        {"sha256": "a" * 64, "size_bytes": 1, "suffix": "/../x"},
        {"sha256": "a" * 64, "size_bytes": -1, "suffix": ".onnx"},
    ],
)
def test_a_manifest_cannot_name_files_outside_its_folder(folder: Path, entry: dict[str, object]) -> None:
    with pytest.raises(BundleError, match=r"\$\.inference"):
        decode_manifest(edited(read_bundle(folder).manifest, inference=entry))


def test_a_spec_that_contradicts_itself_is_refused(folder: Path) -> None:
    manifest = read_bundle(folder).manifest
    spec = {**json.loads(encode_manifest(manifest))["spec"], "cuts": [0, 5]}
    with pytest.raises(BundleError, match="no block starts at layer 5"):
        decode_manifest(edited(manifest, spec=spec))


def test_sub_models_and_pieces_must_follow_the_cuts(folder: Path) -> None:
    manifest = read_bundle(folder).manifest
    reversed_ = msgspec.structs.replace(manifest, sub_models=manifest.sub_models[::-1])
    with pytest.raises(BundleError, match=r"start at \(1, 0\)"):
        decode_manifest(encode_manifest(reversed_))
    skewed = msgspec.structs.replace(manifest, pieces=(Piece(0, 2, manifest.pieces[0].graph),))
    with pytest.raises(BundleError, match=r"span the blocks \[\(0, 2\)\]"):
        decode_manifest(encode_manifest(skewed))


def test_a_bundle_is_replaced_whole(folder: Path) -> None:
    (folder / ("0" * 64 + ".onnx")).write_bytes(b"of an older bundle")
    manifest = write_bundle(folder)
    assert {path.name for path in folder.iterdir()} == {MANIFEST_NAME, *(e.file_name for e in entries(manifest))}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_draft_that_fails_leaves_the_old_bundle_and_nothing_else(folder: Path) -> None:
    before = read_bundle(folder).digest
    with pytest.raises(KeyboardInterrupt):
        interrupted(folder)
    assert read_bundle(folder).digest == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_draft_without_a_manifest_is_not_moved_into_place(folder: Path) -> None:
    before = read_bundle(folder).digest
    with pytest.raises(BundleError, match="no manifest"), drafted(folder) as draft:
        draft.add(b"and nothing more", ".onnx")
    assert read_bundle(folder).digest == before


@pytest.mark.parametrize("name", ["notes.txt", "a" * 64 + ".py", "a" * 64 + ".onnx"])
def test_a_folder_that_is_no_bundle_is_never_touched(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("keep me")
    with pytest.raises(BundleError, match="choose another folder"):
        write_bundle(tmp_path / "mine")
    assert (tmp_path / "mine" / name).read_text() == "keep me"


def test_a_bundle_with_something_of_the_operators_in_it_is_never_touched(folder: Path) -> None:
    (folder / "notes.txt").write_text("keep me")
    with pytest.raises(BundleError, match=r"'notes\.txt' in it is no bundle's"):
        write_bundle(folder)
    assert (folder / "notes.txt").read_text() == "keep me"


def test_a_file_in_the_folders_place_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "tiny").write_text("keep me")
    with pytest.raises(BundleError, match="a file has this name"):
        write_bundle(tmp_path / "tiny")
    assert (tmp_path / "tiny").read_text() == "keep me"


def test_an_empty_folder_may_become_a_bundle_and_parents_are_made(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_bundle(tmp_path / "empty")
    write_bundle(tmp_path / "new" / "parents" / "tiny")
    assert read_bundle(tmp_path / "empty").digest == read_bundle(tmp_path / "new" / "parents" / "tiny").digest


@pytest.mark.parametrize("module", ["errors", "spec", "manifest", "bundle", "draft", "values", "capacity", "export"])
def test_what_a_board_reads_never_loads_torch(module: str) -> None:
    script = f"import sys, lamina.models.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
