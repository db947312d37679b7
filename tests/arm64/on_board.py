"""What is done in the root as one of the boards: the commands of the runtime, its tests, and answers to be compared."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from roots import Root, RootError

from arm64.agreement import compare
from arm64.boards import Board
from arm64.record import GateError, Record
from arm64.selection import runnable
from arm64.wheels import REPOSITORY, TESTING
from edge.targets import TARGETS

ENVIRONMENT: Final = "/opt/device"  # a pack installs to /opt/edgekit
_TESTING: Final = "/opt/testing"
"""An environment beside the one that is tried, which sees it and has what the tests need."""
_SCRIPTS: Final = {
    "answers.py": REPOSITORY / "tests/arm64/answers.py",
    "footprint.py": REPOSITORY / "benchmarks/scripts/footprint.py",
}
_LEFT_OUT: Final = {
    "test_edge_imports.py": "reads the checkout's files",
    "test_edge_systemd.py": "reads the checkout's files",
    "test_edge_choice.py": "asks which of all engines is chosen, and only LiteRT is there",
    "test_edge_probe.py::test_an_engine_that_works_is_ok_with_its_version[openvino]": "needs OpenVINO",
    "test_edge_probe.py::test_an_engine_that_works_is_ok_with_its_version[onnx]": "needs ONNX Runtime",
    "test_edge_probe.py::test_openvino_tells_its_devices_from_a_child": "needs OpenVINO",
    "test_edge_phantom.py::test_labels_are_drawn_in_the_stated_proportions": "draws hundreds of phantoms: minutes",
    "test_edge_phantom.py::test_lesions_are_darker_than_tissue_at_the_same_depth_by_a_realistic_ratio": "as above",
    "test_edge_phantom.py::test_brightness_lies_within_the_range_of_real_images": "as above",
    "test_edge_phantom.py::test_cine_moves_smoothly": "as above",
    "test_edge_presence.py::test_it_is_cheap": "a time, which means nothing here",
}
"""Modules and tests that are not run, and why."""
_TESTS_LIMIT_S: Final = 900


def install(root: Root, wheels: Path, record: Record) -> str:
    """Install edgekit with its `litert` extra from the wheels alone, and the tests' packages apart from it."""
    work = root.path / "gate"
    shutil.copytree(wheels, work / "wheels", ignore=shutil.ignore_patterns("own"))
    for name, file in _SCRIPTS.items():
        shutil.copy(file, work / name)
    for folder in ("tests", "tests/arm64"):
        (work / "checkout" / folder).mkdir(parents=True)
        for file in (REPOSITORY / folder).glob("*.py"):
            shutil.copy(file, work / "checkout" / folder / file.name)
    shutil.copy(REPOSITORY / "pyproject.toml", work / "checkout")
    (pip,) = (file.name for file in (work / "wheels").glob("pip-*.whl"))
    environment = {"PYTHONPATH": f"/gate/wheels/{pip}", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    from_wheels = ["-m", "pip", "install", "--quiet", "--no-index", "--find-links", "/gate/wheels", "--no-compile"]
    for command in (
        ("python3", "-m", "venv", "--without-pip", ENVIRONMENT),
        (f"{ENVIRONMENT}/bin/python", *from_wheels, "edgekit-ultrasound[litert]"),
        ("python3", "-m", "venv", "--without-pip", _TESTING),
        (f"{_TESTING}/bin/python", *from_wheels, *TESTING),
    ):
        done = root.run(*command, env=environment, limit_s=record.left_s(400))
        if done.returncode != 0:
            raise GateError(f"{' '.join(command[:4])}: {_last(done.stderr)}")
    beside = root.path / f"{_TESTING[1:]}/lib/python3.11/site-packages/edgekit.pth"
    beside.write_text(f"{ENVIRONMENT}/lib/python3.11/site-packages\n")
    return f"{len(list((work / 'wheels').glob('*.whl')))} wheels, no network"


class OnBoard:
    """The commands on one board. Each returns what it found, or raises GateError."""

    def __init__(self, root: Root, board: Board, record: Record, logs: Path) -> None:
        self._root, self._board, self._record, self._logs = root, board, record, logs
        self._folder = root.path / "gate" / board.name
        self._folder.mkdir()
        self._network = ("--network", TARGETS[board.name].network)

    def doctor(self) -> str:
        self._edgekit("doctor", "--json", "doctor.json", limit_s=200)
        told = self._json("doctor.json")
        features, advised = told["device"]["features"], told["recommendation"]
        (litert,) = (engine for engine in told["engines"] if engine["engine"] == "litert")
        self._require(litert["state"] == "ok", f"LiteRT is {litert['state']}: {litert['detail']}")
        self._require(told["device"]["board"] == self._board.model, f"took itself for {told['device']['board']}")
        self._require(
            ("asimddp" in features) == self._board.has_dot_product, f"dot product is wrong in {', '.join(features)}"
        )
        self._require(advised["engine"] == "litert", f"recommends {advised['engine']}")
        return (
            f"{told['device']['cpu']}; {', '.join(features)}; recommends {advised['engine']} and {advised['network']}"
        )

    def predict(self) -> str:
        images = sorted(file.name for file in (self._root.path / "gate/images").iterdir())
        self._edgekit("predict", "/gate/images", "-o", "findings", limit_s=200)
        told = self._json("findings/predictions.json")
        self._require((told["engine"], told["precision"]) == ("litert", "int8"), f"ran on {told['engine']}")
        found = {Path(record["image"]).name: record for record in told["predictions"]}
        self._require(sorted(found) == images, f"answers for {sorted(found)}, not for {images}")
        for record in found.values():
            self._require((self._folder / "findings" / record["overlay"]).is_file(), f"no overlay {record['overlay']}")
        return ", ".join(record["decision"] for record in found.values())

    def bench(self) -> str:
        self._edgekit(
            "bench", *self._network, "--engine", "litert", "--rounds", "3", "--json", "bench.json", limit_s=400
        )
        told = self._json("bench.json")
        rows = [(row["engine"], row["precision"]) for row in told["results"]]
        self._require(rows == [("litert", "int8")], f"timed {rows}")
        return "3 rounds (times mean nothing here)"

    def run(self) -> str:
        options = (*self._network, "--policy", "all", "--results", "results.jsonl", "--json", "ledger.json")
        self._edgekit("run", "phantom:2?seconds=4", *options, limit_s=200)
        told = self._json("ledger.json")
        lines = (self._folder / "results.jsonl").read_text().splitlines()
        self._require(
            told["failed"] == 0 and told["processed"] > 0,
            f"ledger: {told['processed']} processed, {told['failed']} failed",
        )
        self._require(bool(lines), "no results were written")
        return f"{told['processed']} of {told['captured']} frames processed"

    def answers(self, reference: Mapping[str, Any]) -> str:
        self._python("/gate/answers.py", "/gate/frames.npz", f"/gate/{self._board.name}/answers.npz", limit_s=600)
        with np.load(self._folder / "answers.npz") as file:
            verdicts = compare(reference, dict(file))
        self._record.figures.setdefault("agreement", {})[self._board.name] = {v.network: v.to_json() for v in verdicts}
        said = "; ".join(map(str, verdicts))
        self._require(all(verdict.passed for verdict in verdicts), f"beyond the bounds of edgekit drift: {said}")
        return said

    def footprint(self) -> str:
        """What it takes as the emulator sees it; only the size on the disk is that of a device."""
        options = (
            "--no-limits",
            "--rounds",
            "1",
            "--seconds",
            "5",
            "--environment",
            ENVIRONMENT,
            "--json",
            "footprint.json",
        )
        self._python("/gate/footprint.py", *options, limit_s=300)
        told = self._json("footprint.json")
        self._record.figures.setdefault("footprint", {})[self._board.name] = told
        peak = f"peak {told['peak_bytes'] / 1e6:.0f} MB with the emulator's own"
        return f"installed {told['installed_bytes'] / 1e6:.0f} MB; {peak}"

    def tests(self) -> str:
        modules, lacking = runnable(REPOSITORY)
        chosen = [file.name for file in modules if file.name not in _LEFT_OUT]
        self._record.figures["tests_left_out"] = _LEFT_OUT | {name: f"needs {what}" for name, what in lacking.items()}
        options = ["-p", "no:cacheprovider", "-m", "not slow", "--hypothesis-profile", "emulated", "--durations", "25"]
        options += [f"--deselect=tests/{name}" for name in _LEFT_OUT if "::" in name]
        log = self._logs / f"arm64-tests-{self._board.name}.log"
        try:
            said = self._python(
                *("-m", "pytest", *options, f"--basetemp=/tmp/pytest-{self._board.name}", *chosen),
                python=f"{_TESTING}/bin/python",
                cwd="/gate/checkout/tests",
                limit_s=_TESTS_LIMIT_S,
                check=False,
            )
        except RootError as error:
            log.write_text(error.said, encoding="utf-8")
            raise GateError(f"{error}; see {log}") from error
        log.write_text(said, encoding="utf-8")
        told = [line for line in said.splitlines() if re.search(r"\d+ (passed|failed|error)", line)]
        failed = re.findall(r"^(?:FAILED|ERROR) (test_\S+)", said, re.MULTILINE)
        self._require(bool(told) and not failed, f"{', '.join(failed[:5]) or 'no end'} ({len(failed)}); see {log}")
        return f"{told[-1].strip('= ')}; {len(chosen)} modules"

    def _edgekit(self, *arguments: str, limit_s: float) -> None:
        self._python("-m", "edgekit", *arguments, limit_s=limit_s)

    def _python(
        self,
        *arguments: str,
        limit_s: float,
        python: str = f"{ENVIRONMENT}/bin/python",
        cwd: str | None = None,
        check: bool = True,
    ) -> str:
        """Run an installed Python as this board and return what it prints. `check`: raise GateError where it fails."""
        done = self._root.run(
            *(python, *arguments),
            env={"XDG_CACHE_HOME": f"/gate/{self._board.name}/cache", "OPENBLAS_NUM_THREADS": "1"},
            cwd=cwd or f"/gate/{self._board.name}",
            files=self._board.kernel_files(),
            qemu_cpu=self._board.qemu_cpu,
            limit_s=self._record.left_s(limit_s),
        )
        said = done.stdout + done.stderr
        if check and done.returncode != 0:
            raise GateError(f"ended with {done.returncode}: {_last(said)}")
        return said

    def _json(self, name: str) -> dict[str, Any]:
        told: dict[str, Any] = json.loads((self._folder / name).read_text(encoding="utf-8"))
        return told

    @staticmethod
    def _require(holds: bool, otherwise: str) -> None:
        if not holds:
            raise GateError(otherwise)


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing was printed"
