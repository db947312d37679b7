"""Analysis of a frame: nothing outside the region leaves it, and what is rejected has a reason and no finding."""

import threading
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from calibration.familiarity import fit_reference
from edge.analysis import Analysis, FrameAnalyser
from edge.capture import Frame
from edge.errors import DataError, EngineError, SourceError
from edge.frame import GreyImage
from edge.guard import Guard
from edge.manifest import OutputSpec
from edge.phantom import phantom_case
from edge.predictor import Predictor
from edge.preprocess import Box
from edge.roi import Mode
from edge.sources import Picture
from emtnet.engine import UNSET, emtnet_interpretation

EMBEDDING = OutputSpec("embedding", "features", "none", (1, 12))
INSIDE = Box(40, 60, 200, 240)
TISSUE = phantom_case(3, size=(200, 240)).pixels


class Outliner:
    """An engine that finds a lesion in the middle of whatever it sees."""

    def __init__(self, features: NDArray[np.float32] | None = None) -> None:
        self.features, self.seen, self.closed = features, 0, False

    def infer(self, image: GreyImage) -> Mapping[str, NDArray[np.float32]]:
        assert not self.closed
        self.seen += 1
        mask = np.full((1, 1, 112, 112), -6.0, np.float32)
        mask[..., 40:72, 30:60] = 6.0
        outputs = {"mask": mask, "malignancy": np.full((1, 1), 2.0, np.float32)}
        if self.features is not None:
            outputs[EMBEDDING.name] = self.features
        return outputs

    def close(self) -> None:
        self.closed = True


def analyser(engine: Outliner | None = None, *, roi: Mode = INSIDE, guard: Guard | None = None) -> FrameAnalyser:
    engine = engine or Outliner()
    how = replace(emtnet_interpretation("emtnet", UNSET), features=None if engine.features is None else EMBEDDING)
    return FrameAnalyser(Predictor(engine, how), roi=roi, guard=guard)


def screen(index: int, *, colour: bool = False, still: bool = False) -> NDArray[np.uint8]:
    """A scanner's screen: white letters around the tissue, whose grain changes from frame to frame."""
    pixels = np.full((280, 360), 255, np.uint8)
    noise = np.random.default_rng(0 if still else index).normal(0.0, 12.0, TISSUE.shape)
    pixels[INSIDE.pixels] = np.clip(TISSUE + noise, 1, 245).astype(np.uint8)
    return np.repeat(pixels[:, :, None], 3, axis=2) if colour else pixels


def frame(index: int, pixels: NDArray[np.uint8], *, session: int = 1, time_s: float | None = None) -> Frame:
    picture = Picture(pixels, time_s=index / 10 if time_s is None else time_s, spacing_mm=(0.1, 0.1), origin="here")
    return Frame(index, index * 10**8, picture, session)


@pytest.mark.parametrize("colour", [False, True])
def test_nothing_outside_the_region_leaves(colour: bool) -> None:
    pixels = screen(0, colour=colour)
    before = pixels.copy()
    found = analyser().analyse(frame(0, pixels))
    outside = np.ones(found.pixels.shape[:2], np.bool_)
    outside[INSIDE.pixels] = False
    assert not found.pixels[outside].any()
    assert (found.pixels[INSIDE.pixels] == pixels[INSIDE.pixels]).all()
    assert found.grey.shape == (200, 240)
    assert (pixels == before).all()


def test_a_finding_is_in_the_frames_own_coordinates() -> None:
    found = analyser().analyse(frame(0, screen(0)))
    assert found.finding is not None
    (lesion,) = found.finding.lesions
    x, y = np.array(lesion.contour).T
    assert x.min() == pytest.approx(60 + 240 * 30 / 112, abs=2)
    assert x.max() == pytest.approx(60 + 240 * 60 / 112, abs=2)
    assert y.min() == pytest.approx(40 + 200 * 40 / 112, abs=2)
    assert lesion.area_mm2 == pytest.approx(0.01 * lesion.area_px)
    assert (found.finding.decision, found.reason, found.origin) == ("malignant", "", "here")
    assert found.preprocessed_ns is not None
    assert found.inferred_ns is not None


def test_a_rejected_frame_has_a_reason_and_no_finding_and_costs_no_inference() -> None:
    engine = Outliner()
    watched = analyser(engine, guard=Guard())
    black = np.zeros((280, 360), np.uint8)
    found = watched.analyse(frame(0, black))
    assert found.finding is None
    assert "no contact" in found.reason
    assert engine.seen == 0
    assert found.inferred_ns is None


def test_a_frozen_picture_keeps_its_last_finding_with_its_age() -> None:
    watched = analyser(guard=Guard())
    live = [watched.analyse(frame(index, screen(index))) for index in range(3)]
    assert not any(found.reason for found in live)
    still = [watched.analyse(frame(index, screen(0, still=True))) for index in range(3, 30)]
    frozen = [found for found in still if found.reason]
    assert "frozen" in frozen[-1].reason
    assert 1.0 <= (still.index(frozen[0])) / 10 <= 1.3
    newest = [found for found in still if not found.reason][-1]
    assert frozen[-1].finding == newest.finding
    assert newest.time_s is not None
    assert frozen[-1].finding_age_s == pytest.approx(29 / 10 - newest.time_s)
    again = watched.analyse(frame(30, screen(30)))
    assert (again.reason, again.finding_age_s) == ("", 0.0)


def test_another_fault_forgets_the_last_finding() -> None:
    watched = analyser(guard=Guard())
    watched.analyse(frame(0, screen(0)))
    for index in range(1, 30):
        found = watched.analyse(frame(index, np.zeros((280, 360), np.uint8)))
    assert found.finding is None


@pytest.mark.parametrize(("rejected", "number"), [(1, 1), (6, 1), (9, 2), (30, 2)])
def test_a_lesion_keeps_its_number_over_a_brief_rejection_alone(rejected: int, number: int) -> None:
    """A guard may reject a good frame in fifty; each would otherwise be the end of every lesion."""
    watched = analyser(guard=Guard())
    watched.analyse(frame(0, screen(0)))
    for index in range(1, 1 + rejected):
        assert "no contact" in watched.analyse(frame(index, np.zeros((280, 360), np.uint8))).reason
    for index in range(1 + rejected, 4 + rejected):
        found = watched.analyse(frame(index, screen(index)))
        assert found.finding is not None
        assert [lesion.track for lesion in found.finding.lesions] == [number]


def test_a_source_that_was_opened_again_begins_afresh() -> None:
    watched = analyser(guard=Guard())
    first = watched.analyse(frame(0, screen(0)))
    assert first.finding is not None
    assert first.finding.lesions[0].track == 1
    second = watched.analyse(frame(1, screen(1), session=2))
    assert second.finding is not None
    assert second.finding.lesions[0].track == 2


def drawn(count: int, seed: int = 0, *, spread: float = 1.0) -> NDArray[np.float32]:
    return np.asarray(np.random.default_rng(seed).normal(0.0, spread, (count, 12)), np.float32)


def test_a_frame_far_from_the_calibration_is_rejected_after_the_network() -> None:
    """By the output that the manifest calls features, whatever its name."""
    guard = Guard(reference=fit_reference(drawn(60)))
    assert analyser(Outliner(drawn(1)), guard=guard).analyse(frame(0, screen(0))).finding is not None
    far = Outliner(drawn(1, spread=1e3))
    found = analyser(far, guard=guard).analyse(frame(0, screen(0)))
    assert "unfamiliar" in found.reason
    assert found.finding is None
    assert found.inferred_ns is not None
    assert analyser(far).analyse(frame(0, screen(0))).finding is not None, "rejected without a guard"
    assert analyser(far, guard=Guard()).analyse(frame(0, screen(0))).finding is not None, "rejected without a reference"


def test_features_that_are_no_numbers_are_rejected_like_unfamiliar_ones() -> None:
    guard = Guard(reference=fit_reference(drawn(60)))
    found = analyser(Outliner(np.full((1, 12), np.nan, np.float32)), guard=guard).analyse(frame(0, screen(0)))
    assert "unfamiliar" in found.reason


@pytest.mark.parametrize("features", [drawn(1)[:, :5], drawn(2)])
def test_features_of_another_shape_than_the_manifests_are_the_engines_error(features: NDArray[np.float32]) -> None:
    guard = Guard(reference=fit_reference(drawn(60)))
    with pytest.raises(EngineError, match="output 'embedding' has shape"):
        analyser(Outliner(features), guard=guard).analyse(frame(0, screen(0)))


@pytest.mark.parametrize("guard", [None, Guard()])
def test_until_the_region_is_known_nothing_is_shown(guard: Guard | None) -> None:
    found = analyser(roi="auto", guard=guard).analyse(frame(0, screen(0)))
    if found.reason:
        assert "scan region" in found.reason
        assert not found.pixels.any()
        assert found.finding is None
    else:
        outside = np.ones(found.pixels.shape[:2], np.bool_)
        outside[found.region.pixels] = False
        assert not found.pixels[outside].any()


def test_faults_of_engine_and_options_surface() -> None:
    class Broken(Outliner):
        def infer(self, image: GreyImage) -> Mapping[str, NDArray[np.float32]]:
            raise EngineError("no memory")

    with pytest.raises(EngineError, match="no memory"):
        analyser(Broken()).analyse(frame(0, screen(0)))
    with pytest.raises(SourceError, match="--roi"):
        analyser(roi=Box(0, 0, 999, 999)).analyse(frame(0, screen(0)))
    with pytest.raises(DataError, match="too small"):
        analyser(roi=Box(0, 0, 4, 4)).analyse(frame(0, screen(0)))


def test_closing_releases_the_engine() -> None:
    engine = Outliner()
    analyser(engine).close()
    assert engine.closed


def test_an_analysis_compares_by_identity() -> None:
    found = analyser().analyse(frame(0, screen(0)))
    assert replace(found) != found
    assert isinstance(found, Analysis)


def test_an_engine_is_not_closed_while_it_works_on_a_frame() -> None:
    working, go_on = threading.Event(), threading.Event()

    class Slow(Outliner):
        def infer(self, image: GreyImage) -> Mapping[str, NDArray[np.float32]]:
            working.set()
            assert go_on.wait(10.0)
            return super().infer(image)

    engine = Slow()
    ended = analyser(engine)
    worker = threading.Thread(target=ended.analyse, args=(frame(0, screen(0)),))
    worker.start()
    assert working.wait(10.0)
    ended.close()
    assert not engine.closed
    go_on.set()
    worker.join(10.0)
    assert engine.closed
    with pytest.raises(EngineError, match="the run has ended"):
        ended.analyse(frame(1, screen(1)))
