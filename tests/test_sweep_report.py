"""The report of a sweep: stands alone, believes nobody, and is made in any state of a sweep."""

import csv
import json
import math
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from made_up_sweeps import METRIC, large_sweep, run, sweep, trial

from tintlab.config import Workspace
from tintlab.errors import BudgetReached, TintlabError
from tintlab.redaction import redacted
from tintlab.sweep.axes import Axis, cut
from tintlab.sweep.comparison import ComparedPhotos
from tintlab.sweep.html_report import html, write_report
from tintlab.sweep.records import SweepRecord
from tintlab.sweep.summary import ranking, result_of

COSINE, CYCLE = {"schedule.kind": "cosine"}, {"schedule.kind": "triangular"}


def figures(page: str) -> dict[str, Any]:
    """The figures of a page, as its script reads them."""
    found = re.search(
        r'<script type="application/json" id="figures">(.*?)</script>', page, re.DOTALL
    )
    assert found
    drawn: dict[str, Any] = json.loads(found[1])
    return drawn


def text_of(page: str) -> str:
    """What can be read on a page, without the script that draws."""
    return re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)


STATES = {
    "nothing begun": sweep(ended=None),
    "one trial": sweep(trial(0, COSINE, [0.8])),
    "a trial without runs": sweep(trial(0, COSINE, [], state="running"), ended=None),
    "all failed": sweep(trial(0, COSINE, [0.8], state="failed"), trial(1, {}, [], state="failed")),
    "all stopped": sweep(trial(0, COSINE, [0.8], state="stopped")),
    "no searched key": sweep(trial(0, {}, [0.8]), trial(1, {}, [0.9])),
    "equal scores": sweep(trial(0, COSINE, [0.8, 0.8]), trial(1, CYCLE, [0.8, 0.8])),
    "not finite": sweep(trial(0, COSINE, [math.inf]), trial(1, CYCLE, [0.8])),
    "mixed values": sweep(
        trial(0, {"training.compile": True, "loss.pixel": 0}, [0.8]),
        trial(1, {"training.compile": False, "loss.pixel": 0.5}, [0.9]),
        trial(2, {"training.compile": "auto"}, [0.7]),
    ),
    "several objectives": large_sweep(
        20, objectives={METRIC: "min", "val/psnr_db": "max", "val/colorfulness_ratio": "max"}
    ),
    "more is better": large_sweep(20, mode="max"),
}


@pytest.mark.parametrize("state", STATES)
def test_a_report_is_made_in_any_state_of_a_sweep(state: str, tmp_path: Path) -> None:
    record = STATES[state]
    page = write_report(record, tmp_path / "reports").read_text()
    for name, figure in figures(page).items():
        go.Figure(figure)  # plotly refuses what it does not know
        assert f'id="{name}"' in page
    assert {path.name for path in (tmp_path / "reports").iterdir()} == {
        "report.html",
        "trials.csv",
        "trials.json",
    }
    document = json.loads(
        (tmp_path / "reports" / "trials.json").read_text(), parse_constant=lambda name: 1 / 0
    )
    assert len(document["trials"]) == len(record.trials)
    with (tmp_path / "reports" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(max(1, len(one.runs)) for one in record.trials)


def test_the_page_asks_nobody_for_anything() -> None:
    page = html(large_sweep(20))
    head = page[: page.index("<body>")]
    assert "Content-Security-Policy\" content=\"default-src 'none'" in head
    loaded = re.findall(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=[\"']?([^\"'>]*)", page)
    assert set(loaded) == {"data:,"}  # the icon, which browsers would ask a server for
    assert page.count('id="plotly"') == 1
    assert len(page) < 3_000_000


def test_what_a_run_logs_of_a_report_is_the_report(tmp_path: Path) -> None:
    """Secrets are taken out of every text that is logged; nothing of a page may look like one."""
    draw = np.random.default_rng(0)
    names = ("grey", "truth")
    noise = tuple((name, draw.integers(0, 255, (64, 64, 3), np.uint8)) for name in names)
    write_report(large_sweep(30), tmp_path, [ComparedPhotos("photo", noise)])
    for file in tmp_path.iterdir():
        assert redacted(file.read_text()) == file.read_text(), file.name


HOSTILE = "</script><img src=x onerror=alert(1)>"


def test_the_page_believes_no_name_value_or_reason() -> None:
    values = {"schedule.kind": HOSTILE, HOSTILE: 1}
    record = replace(
        sweep(
            trial(0, values, [0.8, 0.9], reason=None),
            trial(1, {**values, HOSTILE: 2}, [0.7, 0.8]),
            trial(2, values, [0.8], state="failed", failure=HOSTILE, reason=HOSTILE),
        ),
        **dict.fromkeys(("name", "question", "space", "shards_uri", "ended"), HOSTILE),
        code={HOSTILE: HOSTILE},
        overrides=(HOSTILE,),
        reference={"schedule.kind": HOSTILE},
    )
    page = html(record, [ComparedPhotos(HOSTILE, (("grey", np.zeros((4, 4, 3), np.uint8)),))])
    assert "<img src=x" not in page
    drawn = json.dumps(figures(page))
    assert "&lt;/script&gt;" in drawn  # Plotly reads some HTML in its labels
    assert "<img" not in drawn


def test_no_secret_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE_PASSWORD", "correct horse battery")
    secret = "s3://me:hunter2secret@host/shards"
    failed = trial(0, COSINE, [0.8], state="failed", failure="code", reason=f"cannot read {secret}")
    record = replace(
        sweep(failed, trial(1, CYCLE, [0.7, 0.8])),
        shards_uri=secret,
        overrides=("the data moved: correct horse battery",),
        base={"data.note": "token=ghp_0123456789abcdefghijABCDEFGHIJ0123"},
    )
    write_report(record, tmp_path)
    for file in tmp_path.iterdir():
        content = file.read_text()
        for value in ("hunter2secret", "correct horse battery", "ghp_0123456789"):
            assert value not in content, file.name
    assert "[redacted]" in text_of((tmp_path / "report.html").read_text())


def test_an_older_report_is_replaced_whole(tmp_path: Path) -> None:
    first = write_report(sweep(trial(0, COSINE, [0.8])), tmp_path)
    write_report(sweep(trial(0, COSINE, [0.8]), trial(1, CYCLE, [0.7])), tmp_path)
    assert "The best is schedule.kind=triangular" in first.read_text()
    (tmp_path / "trials.csv").unlink()
    (tmp_path / "trials.csv").mkdir()  # cannot be written
    before = first.read_bytes()
    with pytest.raises(OSError, match=r"trials\.csv|Is a directory|directory"):
        write_report(sweep(), tmp_path)
    assert first.read_bytes() == before


def test_five_hundred_trials_are_shown_within_ten_seconds(tmp_path: Path) -> None:
    record = large_sweep(500)
    start_s = time.process_time()  # others may be using the processors
    page = write_report(record, tmp_path).read_text()
    assert time.process_time() - start_s < 10
    assert page.count("<tr class=") == 500
    drawn = figures(page)
    complete = sum(one.state == "complete" for one in record.trials)
    assert len(drawn["parallel"]["data"]) == complete
    runs = 2 * len([one for one in record.trials if one.state == "stopped"])
    (stopped,) = (t for t in drawn["curves"]["data"] if t["name"].startswith("stopped early"))
    assert stopped["name"] == f"stopped early: {runs} runs"
    assert stopped["line"]["dash"] == "dash"
    assert stopped["y"].count(None) == runs  # a gap after each


def test_the_table_ranks_and_shows_intervals_over_seeds() -> None:
    record = sweep(
        trial(0, COSINE, [0.80, 0.82]),
        trial(1, CYCLE, [0.70, 0.72]),
        trial(2, CYCLE, [0.9], state="stopped"),
        trial(3, CYCLE, [], state="failed"),
        reference=COSINE,
    )
    page = text_of(html(record))
    rows = re.findall(r'<tr class="(\w+)">(.*?)</tr>', page)
    assert [kind for kind, _ in rows] == ["best", "reference", "stopped", "failed"]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", rows[0][1])
    # t of one degree of freedom is 12.706, the standard error 0.01
    assert cells[:7] == ["1", "1", "complete", "triangular", "0.7100", "0.1271", "0.0141"]
    run_id = record.trials[1].runs[0].run_id
    assert f'href="http://127.0.0.1:5000/#/runs/{run_id}"' in rows[0][1]


def test_failures_are_shown_with_class_reason_and_what_they_share() -> None:
    page = text_of(html(large_sweep(80)))
    assert "<code>non_finite</code>" in page
    assert "the loss is nan at step 20" in page
    assert "<code>schedule.kind</code> = exp_range" in page


def test_too_few_trials_tell_no_importance() -> None:
    page = text_of(html(large_sweep(6)))
    assert "too few to tell which key matters" in page
    assert 'id="importance"' not in page
    assert 'id="importance"' in text_of(html(large_sweep(40)))


def test_commands_name_the_runs_the_data_and_the_workspace(tmp_path: Path) -> None:
    place = Workspace.at(str(tmp_path / "my ws"))
    record = sweep(trial(0, COSINE, [0.8, 0.7]), trial(1, CYCLE, [0.9, 0.9]))
    best = record.trials[0].runs[1].run_id
    page = text_of(html(record, workspace=place))
    at = f"--shards /data/shards --workspace &#x27;{place.root}&#x27;"
    assert f"tintlab promote --run {best} {at}" in page
    assert f"tintlab train --from-run {best} --name cycles-0-1-again {at}" in page
    own = text_of(html(replace(record, shards_uri=place.shards, ended=None), workspace=place))
    assert f"tintlab promote --run {best} --workspace" in own
    assert f"tintlab sweep --resume cycles --workspace &#x27;{place.root}&#x27;" in own
    assert "--resume" not in page  # there is nothing left to do


def test_pictures_are_inside_the_page() -> None:
    draw = np.random.default_rng(0)
    names = ("grey", "best (trial 1, seed 0)", "truth")
    photos = [
        ComparedPhotos(
            f"photo{n}", tuple((name, draw.integers(0, 255, (8, 8, 3), np.uint8)) for name in names)
        )
        for n in range(2)
    ]
    page = text_of(html(sweep(trial(0, COSINE, [0.8])), photos))
    assert page.count("data:image/png;base64,") == 6
    assert "<th>best (trial 1, seed 0)</th>" in page


def test_a_score_far_off_does_not_hide_the_others() -> None:
    assert cut([0.7, 0.8, 0.9, 50.0], "min") == pytest.approx([0.7, 0.8, 0.9, 2.35])
    assert cut([20.0, 21.0, 22.0, -300.0], "max")[3] == pytest.approx(5.5)
    assert cut([1.0, 1.0, 1.0, 7.0, 8.0], "min")[3:] == [7.0, 7.0]  # two are no exception
    close = [1.2837, 1.2881, 1.2904, 1.3065, 1.4055, 1.4131, 1.4812]
    assert cut(close, "min") == close
    assert cut([1.0, 9.0], "min") == [1.0, 9.0]


def test_values_have_their_place_on_an_axis() -> None:
    rates = Axis([1e-4, 1e-3, 1e-2, None])
    assert rates.places == pytest.approx([0, 0.5, 1, -0.1])
    assert rates.ticks[-1][1] == "not used"
    assert [mark for _, mark in Axis([1.28, 1.2837, 1.5]).ticks] == ["1.28", "1.5"]
    kinds = Axis(["b", "a", "c"])
    assert kinds.places == [0.5, 0, 1]
    assert Axis([True, False]).ticks == [(0.0, "False"), (1.0, "True")]


def test_the_result_says_all_that_others_read() -> None:
    record: SweepRecord = large_sweep(80, reference=COSINE)
    result = result_of(record, Path("/ws/reports/cycles/report.html"))
    assert result.exit_code == 4
    assert {"sweep", "question", "metric", "mode", "best", "trials", "answer", "report"} <= set(
        result.data
    )
    best = record.best
    assert best is not None
    assert result.data["best"]["run_id"] == best.best_run("min").run_id  # type: ignore[union-attr]
    assert result.data["answer"] in result.text
    assert "failed (non_finite): the loss is nan at step 20" in result.text
    assert "all of them: schedule.kind = exp_range" in result.text
    assert "report: /ws/reports/cycles/report.html" in result.text
    json.dumps(result.data)
    assert result_of(sweep(trial(0, COSINE, [0.8])), None).exit_code == 0


def test_a_sweep_without_a_complete_trial_is_an_error_once_it_has_ended() -> None:
    lost = trial(0, COSINE, [0.8], state="failed", failure="data", reason="shard 3 is damaged")
    page = Path("/ws/reports/cycles/report.html")
    nothing = r"no trial of sweep 'cycles' completed: shard 3 is"
    with pytest.raises(TintlabError, match=nothing) as caught:
        result_of(sweep(lost), page)
    assert caught.value.data["trials"][0]["reason"] == "shard 3 is damaged"
    assert f"report: {page}" in caught.value.text
    with pytest.raises(BudgetReached, match=r"^spent, and no trial .*: shard 3 is damaged"):
        result_of(sweep(lost, ended="spent", num_trials=4), page)
    going = result_of(sweep(trial(0, COSINE, [0.8], state="running"), ended=None), None)
    assert going.data["best"] is None
    assert "tintlab sweep --resume cycles" in going.text
    elsewhere = sweep(trial(0, COSINE, [0.8], state="running"), ended=None, storage="x://h/s")
    assert "--resume cycles --sweep.storage x://h/s" in result_of(elsewhere, None).text


def test_the_printed_ranking_has_an_interval_for_several_seeds_and_an_end() -> None:
    two = ranking(sweep(trial(0, COSINE, [0.80, 0.82])))
    assert "±0.1271" in two
    assert "±" not in ranking(sweep(trial(0, COSINE, [0.8])))
    long = ranking(large_sweep(60))
    assert long.endswith("and 20 more, in the report")


def test_a_run_that_the_store_has_not_seen_yet_has_no_command() -> None:
    unsent = replace(sweep(trial(0, COSINE, [0.8])))
    (one,) = unsent.trials
    unsent = replace(unsent, trials=(replace(one, runs=(run(0.8),)),))
    page = text_of(html(unsent))
    assert "not sent yet" in page
    assert "tintlab promote" not in page
    assert "tintlab track sync" in page
