"""Print docs/reliability.md from the figures of the fault tests: see `make reliability`."""

import json
import os
import platform
import sys
from pathlib import Path

INTRO = """\
# Reliability

What was broken on purpose, and what came of it. Each row is one test of `tests/slow/`, run with the
rest by

    make reliability

which also writes this page. Processes are really killed, servers really stopped, files really cut
short; models and photos are small."""


def main(figures: Path) -> None:
    rows = [json.loads(line) for line in figures.read_text().splitlines()]
    print(INTRO)
    print(f"\nLast run on {os.cpu_count()} CPU cores, {platform.system()}, {len(rows)} figures.")
    for part in dict.fromkeys(row["part"] for row in rows):
        print(f"\n## {part}\n\n| fault | found | wanted | test |\n|---|---|---|---|")
        for row in rows:
            if row["part"] == part:
                cells = [row["fault"], row["measured"], row["wanted"], f"`{row['test']}`"]
                print(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
