"""Print what the quickstart found: losses beside the LSTM and the GRU, the verdict, and where the files lie."""

from __future__ import annotations

import sys
from pathlib import Path

import nas
from nas.reports import verdict


def main(folder: str) -> None:
    """Summarise the run in `folder`."""
    run = nas.open_run(folder)
    bred = sum(bool(trial.parents) for trial in run.trials)
    print(
        f"\n{len(run.trials)} candidates ({bred} bred from others, {len(run.trials) - bred} sampled), "
        f"{len(run.top())} of them trained to the end."
    )
    found = run.winner or run.best
    if found is not None:
        print("The best one:\n")
        print("\n".join(f"    {line}" for line in str(nas.parse(found.text)).splitlines()))
    trained = [
        (c.test_score, c.score, c) for c in run.contenders if c.test_score is not None and c.score is not None
    ]
    if trained:
        print(
            f"\n{'':12}{'validation':>10}{'test':>10}{'parameters':>12}   {run.task['metric']}, lower is better"
        )
    for test, valid, contender in sorted(trained, key=lambda row: row[0]):
        name = f"{contender.name} found" if contender is run.winner else contender.name
        print(f"{name:12}{valid:>10.4f}{test:>10.4f}{contender.params:>12,}")
    said = verdict(run)
    print("", said.headline, *said.caveats, "", sep="\n")
    for path in (*sorted(Path(folder).glob("*.html")), *sorted(Path(folder).glob("best/cell.py"))):
        print(path)


if __name__ == "__main__":
    main(sys.argv[1])
