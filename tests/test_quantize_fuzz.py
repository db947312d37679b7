"""Random graphs, sound and broken: a TFLite file that loads and runs, or a ConversionError. No other end is allowed."""

import sys
from collections import Counter
from collections.abc import Sequence

import pytest
from fuzz_graphs import Verdict, make, survey


def check(verdicts: Sequence[Verdict]) -> None:
    failures = [f"{found.seed} ({found.kind}): {found.detail}" for found in verdicts if found.fate == "failed"]
    assert not failures, "\n".join(failures)
    sound = [found for found in verdicts if found.kind in ("fp32", "qdq")]
    tally = Counter(found.fate for found in verdicts)
    assert len(sound) > len(verdicts) / 2
    assert tally["artifact"] >= 0.3 * len(verdicts), tally
    assert tally["refused"] >= 0.2 * len(verdicts), tally


def test_fuzz_quick() -> None:
    check(survey(range(300)))


@pytest.mark.slow
def test_fuzz_10000() -> None:
    check(survey(range(1000, 11000)))


def test_a_seed_is_a_graph() -> None:
    for seed in range(20):
        first, second = make(seed), make(seed)
        assert first.kind == second.kind
        assert first.model.SerializeToString(deterministic=True) == second.model.SerializeToString(deterministic=True)


WORKER = """
import json, os, signal, sys
for seed in map(int, sys.argv[1:]):
    print(seed, flush=True)
    if seed % 10 == 3:
        os.abort()
    if seed == 14:
        os.kill(os.getpid(), signal.SIGALRM)
    print(json.dumps({"seed": seed, "kind": "fp32", "fate": "artifact", "detail": ""}), flush=True)
"""


def test_a_dead_worker_names_its_graph() -> None:
    verdicts = survey(range(30), worker=[sys.executable, "-c", WORKER])
    assert [found.seed for found in verdicts] == list(range(30))
    failed = {found.seed: found.detail for found in verdicts if found.fate == "failed"}
    assert failed.keys() == {3, 13, 14, 23}
    assert "hangs" in failed[14]
    assert "dies of -6" in failed[13]


def test_a_worker_that_does_not_start_is_no_verdict() -> None:
    with pytest.raises(RuntimeError, match="did not start"):
        survey(range(3), worker=[sys.executable, "-c", "raise SystemExit(1)"])
