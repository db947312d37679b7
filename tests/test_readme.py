"""The README's commands and links work as they are written."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from benchmarks.zoo import ZOO, export_onnx
from edge.bundle import Bundle

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    """Every edgekit line of a shell block, without its comment."""
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("edgekit ")]
    return [shlex.split(line, comments=True) for line in lines]


def test_readme_commands_and_snippet_run(small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one folder, as a reader would; a drift limit may be exceeded on so few synthetic frames."""
    monkeypatch.chdir(tmp_path)
    onnx.save(export_onnx(ZOO["deeplab"]), "MODEL.onnx")
    frame = str(small_dataset / "images" / "1.png")
    lines = commands()
    assert len(lines) >= 6
    for line in lines:
        arguments = [{"DATA": str(small_dataset), "FRAME.png": frame}.get(word, word) for word in line[1:]]
        done = subprocess.run(
            [sys.executable, "-m", "edgekit", *arguments], capture_output=True, text=True, check=False, timeout=600
        )
        allowed = (0, 3) if arguments[0] == "drift" else (0,)
        assert done.returncode in allowed, f"{line}: {done.stderr}"
    answers = []
    for snippet in blocks("python"):
        done = subprocess.run(
            [
                sys.executable,
                *([] if "export" in snippet else ["-W", "error"]),
                "-c",
                snippet.replace("FRAME.png", frame),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        answers.append(done.stdout.split())
    assert answers[0][0] in ("benign", "malignant", "no")  # lesion
    assert Bundle.open("my-bundle").manifest.labels == ("benign", "malignant")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_both_commands_are_in_the_readme_and_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test"):
        assert f"make {target}" in README
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.slow
def test_the_demo_writes_its_report(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", "demo", "--rounds", "3", "-o", tmp_path / "report"],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"index.html", "drift.json", "bench.json", "cases.png", "cine.png", "bundle", "phantoms"} <= names
