"""What became of every input of a preparation: stored, a duplicate, or in quarantine."""

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

from tintlab.data.preparation.quarantine import Quarantined
from tintlab.data.sources.inputs import Input
from tintlab.data.sources.photo_bytes import TRY_AGAIN

STORED, DUPLICATE, QUARANTINED = "stored", "duplicate", "quarantined"


class Outcome(NamedTuple):
    """What became of one input."""

    path: str
    outcome: str
    """stored, duplicate or quarantined."""
    reason: str
    """Of a quarantined one."""
    message: str
    sha256: str | None
    """Of its bytes; a shard names its photo by the same. None if they could not be read."""


@dataclass(frozen=True)
class PrepareReport:
    """What a preparation did: inputs = stored + duplicates + quarantined."""

    inputs: int
    stored: int
    """Inputs whose photo is in the data set, each photo counted once."""
    duplicates: int
    """Further inputs with exactly the bytes of a stored one."""
    quarantined: int
    reasons: dict[str, int]
    """Quarantined inputs by reason."""
    left_out: int
    """Hidden files, and files in tars that are not images by name; not inputs."""
    decoded: int
    """Inputs that were decoded by this call; the others were done before."""
    splits: dict[str, int]
    """Photos of the whole data set by split."""
    near_grey: dict[str, int]
    """Photos of the whole data set that are nearly grey, by split; those are not trained on."""
    copies: dict[str, int]
    """Photos of the whole data set that look like one of a later split, by split; not used."""
    notes: dict[str, int]
    """What decoding had to do to photos of the whole data set, and to how many."""
    generation: int
    """1 for a new data set, and one more each time something was added."""
    fingerprint: str
    seconds: float


def account(
    inputs: Sequence[Input], stored: Set[str], refused: Mapping[str, Quarantined]
) -> list[Outcome]:
    """What became of each input, in their order; of equal ones the first is the stored one.

    Args: stored: hashes of what the data set holds. refused: what it cannot hold, by hash.
    """
    outcomes = []
    seen: set[str] = set()
    for item in inputs:
        if item.sha256 is None:
            bad = Quarantined(item.name, item.reason, item.message, None)
        elif item.sha256 in stored:
            kind = DUPLICATE if item.sha256 in seen else STORED
            seen.add(item.sha256)
            outcomes.append(Outcome(item.name, kind, "", "", item.sha256))
            continue
        else:
            bad = refused[item.sha256]
        outcomes.append(Outcome(item.name, QUARANTINED, bad.reason, bad.message, item.sha256))
    return outcomes


def counted(outcomes: Sequence[Outcome]) -> tuple[Counter[str], dict[str, int]]:
    """Inputs by outcome, and the quarantined ones by reason."""
    counts = Counter(item.outcome for item in outcomes)
    reasons = Counter(item.reason for item in outcomes if item.outcome == QUARANTINED)
    return counts, dict(sorted(reasons.items()))


def quarantine_rows(
    outcomes: Sequence[Outcome], before: Sequence[Quarantined], stored: Set[str]
) -> list[Quarantined]:
    """What is in quarantine now: this preparation's, and what it did not judge anew."""
    judged = {item.path for item in outcomes}
    rows = {
        row
        for row in before
        if (row.sha256 not in stored if row.sha256 else row.path not in judged)
    }
    for item in outcomes:
        if item.outcome == QUARANTINED:
            sha256 = None if item.reason in TRY_AGAIN else item.sha256
            rows.add(Quarantined(item.path, item.reason, item.message, sha256))
    return sorted(rows, key=lambda row: (row.path, row.sha256 or "", row.reason))
