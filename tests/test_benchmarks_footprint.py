"""The footprint script: what is weighed, and that a limit is a limit."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[1] / "benchmarks/scripts/footprint.py"
_SPEC = importlib.util.spec_from_file_location("scripts_footprint", FILE)
assert _SPEC is not None
assert _SPEC.loader is not None
footprint = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = footprint  # dataclasses look their module up
_SPEC.loader.exec_module(footprint)

MEGA = 1_000_000


def found(**changed: object) -> object:
    return footprint.Footprint(
        **{"peak_bytes": 150 * MEGA, "import_s": {"edge": 0.1}, "installed_bytes": None} | changed
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, ()),
        ({"installed_bytes": 250 * MEGA}, ()),
        ({"peak_bytes": 201 * MEGA}, ("peak memory of a run: 201 MB > 200",)),
        ({"import_s": {"edge": 0.1, "edge.stream": 0.4}}, ("import edge.stream: 400 ms > 300",)),
        ({"installed_bytes": 263 * MEGA}, ("installed: 263 MB > 250",)),
    ],
)
def test_what_is_beyond_a_limit_is_named(changed: dict[str, object], said: tuple[str, ...]) -> None:
    assert found(**changed).exceeded == said  # type: ignore[attr-defined]


def test_the_disk_is_weighed_in_blocks_and_a_file_of_two_names_once(tmp_path: Path) -> None:
    before = footprint.installed_bytes(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file").write_bytes(os.urandom(100_001))
    once = footprint.installed_bytes(tmp_path)
    os.link(tmp_path / "a/file", tmp_path / "again")
    (tmp_path / "away").symlink_to("/usr")
    assert 100_001 <= once - before < 120_000
    assert footprint.installed_bytes(tmp_path) - once < 8192


def test_a_module_that_cannot_be_imported_is_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"No module named 'edge\.nowhere'"):
        footprint.import_seconds("edge.nowhere", rounds=1)


def test_the_script_writes_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ai_edge_litert.interpreter", reason="needs LiteRT")
    out = tmp_path / "footprint.json"
    options = ["--seconds", "1", "--rounds", "1", "--no-limits", "--environment", str(tmp_path), "--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["footprint.py", *options])
    assert footprint.main() == 0
    told = json.loads(out.read_text())
    assert 50 * MEGA < told["peak_bytes"] < footprint.PEAK_LIMIT_BYTES
    assert 0 < told["import_s"]["edge"] < told["import_s"]["edge.stream"]
    assert told["installed_bytes"] < MEGA
    assert "| peak memory of a run |" in capsys.readouterr().out
