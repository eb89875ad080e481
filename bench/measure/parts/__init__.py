"""One file for each part: NAME, TITLE, run(bench, results, rounds, quick), report(records)."""
