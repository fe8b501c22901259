"""Every kind of file becomes what it must, one by one and in one preparation of them all."""

import os
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hostile_corpus import DUPLICATE, STORED, Kind, kinds, write_corpus
from photos_page import PAGE, page

from tintlab.data.decoding import images
from tintlab.data.decoding.images import Decoded, Undecodable, decode
from tintlab.data.decoding.reasons import NOTES, REASONS
from tintlab.data.prepare import PrepareConfig, prepare
from tintlab.data.shard_format.rows import Row, make_row
from tintlab.data.shards import open_shards

KINDS = kinds()


def test_there_are_enough_kinds() -> None:
    assert len(KINDS) >= 120
    reasons = {kind.becomes for kind in KINDS} - {STORED, DUPLICATE}
    assert reasons >= {
        *("empty", "not_an_image", "unsupported_format", "too_many_pixels"),
        *("decompression_bomb", "truncated", "damaged", "too_small"),
    }
    assert {note for kind in KINDS for note in kind.notes} == NOTES.keys()


@pytest.mark.parametrize("kind", KINDS, ids=[ascii(kind.name) for kind in KINDS])
def test_every_kind_becomes_what_it_must(kind: Kind) -> None:
    row = make_row(kind.data, kind.name, 256, 16, images.MAX_PIXELS)
    if kind.becomes not in (STORED, DUPLICATE):
        assert isinstance(row, Undecodable)
        assert row.reason == kind.becomes, row.message
        assert row.message.isprintable()
        return
    found = decode(kind.data)
    assert isinstance(found, Decoded), found
    assert isinstance(row, Row), row
    assert found.notes == kind.notes
    assert row.notes == ",".join(kind.notes)
    if kind.picture is not None:
        assert found.rgb.shape == kind.picture.shape
        assert np.abs(found.rgb.astype(int) - kind.picture).mean() <= kind.off


def test_what_is_made_of_every_kind_by_chance_raises_nothing() -> None:
    """Bytes changed, taken out and put in at random: photo or reason, never an error."""
    generator = np.random.default_rng(0)
    reasons = set()
    for kind in KINDS:
        if not 0 < len(kind.data) < 300_000:
            continue
        for _ in range(4):
            data = bytearray(kind.data)
            for _ in range(generator.integers(1, 8)):
                # Most of what a decoder can stumble over stands at the beginning.
                at = int(len(data) * generator.random() ** 3)
                what = generator.integers(4)
                if what == 0:
                    data[at : at + 1] = generator.bytes(1)
                elif what == 1:
                    data[at : at + 4] = b"\xff\xff\xff\xff"
                elif what == 2:
                    del data[at : at + int(generator.integers(1, 40))]
                else:
                    data[at:at] = generator.bytes(int(generator.integers(1, 40)))
            found = decode(bytes(data), max_pixels=2_000_000)
            if isinstance(found, Undecodable):
                reasons.add(found.reason)
    assert {"truncated", "damaged", "not_an_image", "too_many_pixels"} <= reasons <= REASONS.keys()


@pytest.mark.usefixtures("ray_cluster")
def test_a_preparation_accounts_for_every_file_of_the_corpus(tmp_path: Path) -> None:
    folder, out = tmp_path / "photos", tmp_path / "set"
    expected = write_corpus(folder)
    report = prepare([str(folder)], str(out), PrepareConfig(short_side_px=32, shard_rows=32))

    assert report.inputs == len(expected)
    assert report.inputs == report.stored + report.duplicates + report.quarantined
    manifest = open_shards(str(out)).manifest
    became: dict[str, str] = {}
    for entry in manifest.shards:
        names = pq.read_table(out / entry.name, columns=["source"])["source"].to_pylist()
        became |= dict.fromkeys(names, STORED)
    table = manifest.quarantine.table
    assert table is not None
    for bad in pq.read_table(out / table.name).to_pylist():
        became[bad["path"]] = bad["reason"]
        assert bad["message"].isprintable()
    # Of equal files the first by name is stored.
    copies = {"baseline.jpg", "link.jpg", "same bytes.jpg"}
    wanted = {name: kind for name, kind in expected.items() if name not in copies}
    found = {name.removeprefix("photos/"): kind for name, kind in became.items()}
    printable = {
        os.fsencode(name).decode("utf-8", "backslashreplace"): kind for name, kind in wanted.items()
    }
    assert {name: kind for name, kind in found.items() if name not in copies} == printable
    assert report.duplicates == 2
    assert len(found.keys() & copies) == 1
    assert report.reasons.keys() <= REASONS.keys()


def test_every_reason_and_note_is_documented() -> None:
    """The report would have no words for one that is not."""
    code = Path(images.__file__).parent
    written = set()
    for path in code.parent.rglob("*.py"):
        written |= set(re.findall(r'Undecodable\(\s*"(\w+)"', path.read_text()))
    written |= set(re.findall(r'return "(\w+)", f?"', (code / "signatures.py").read_text()))
    assert len(written) > 10
    assert written <= REASONS.keys()


def test_the_page_about_photos_is_what_the_corpus_shows() -> None:
    assert PAGE.read_text() == page(), "run: python tests/photos_page.py"
