"""Seeded synthetic breast B-mode images with true lesion masks: calibration and demonstration without a data set.

Echogenicity weights random scatterers, two-way attenuation is summed along depth, the echoes are convolved with a point
spread function and the envelope is log-compressed; shadows, enhancement and speckle follow from that. Sources: speckle
is a circular complex Gaussian with a Rayleigh envelope (Burckhardt, IEEE Trans. Sonics Ultrason. 25(1), 1978; Wagner et
al., ibid. 30(3), 1983); soft tissue attenuates 0.5 to 1 dB/cm/MHz one way (Szabo, Diagnostic Ultrasound Imaging, 2014);
lesion signs are those of Stavros et al., Radiology 196, 1995. Lengths are cm, levels dB relative to glandular tissue.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Field = NDArray[np.float32]
Points = NDArray[np.float64]

LABEL_ODDS: Final = {"benign": 0.45, "malignant": 0.35, "normal": 0.20}
MIN_SIDE: Final = 64
SOUND_CM_PER_US: Final = 0.154
TGC_ATTENUATION: Final = 0.7
"""One-way attenuation in dB/cm/MHz that the time gain compensation (TGC) assumes."""


@dataclass(frozen=True, slots=True, eq=False)
class PhantomCase:
    """One grey image, its lesion mask, its label and the seed that made it."""

    pixels: NDArray[np.uint8]  # (H, W) grey
    mask: NDArray[np.bool_]  # (H, W), True on the lesion
    label: str  # "benign" | "malignant" | "normal"
    seed: int


@dataclass(frozen=True, slots=True)
class _Grid:
    """Pixels of an image (H, W) and how many of them make a cm, across (x) and along (y) the beam."""

    height: int
    width: int
    x: float
    y: float

    def depth(self) -> Field:
        """Return the depth of every row, (H, 1) in cm."""
        return (np.arange(self.height, dtype=np.float32)[:, None] + 0.5) / np.float32(self.y)

    def noise(self, rng: Generator, across: float, along: float) -> Field:
        """Return smooth noise (H, W) of unit variance, correlated over about `across` by `along` cm."""
        nodes = (self.height / max(2.0, along * self.y), self.width / max(2.0, across * self.x))
        coarse = cv2.GaussianBlur(rng.standard_normal([int(n) + 4 for n in nodes], dtype=np.float32), (0, 0), 0.7)
        fine = cv2.resize(coarse, (self.width, self.height), interpolation=cv2.INTER_CUBIC)
        return np.asarray((fine - fine.mean()) / (fine.std() + 1e-6), np.float32)

    def sheets(self, rng: Generator, across: float, along: float) -> Field:
        """Return thin curved reflectors (H, W) in 0..1: a zero level of noise, brightest where it faces the beam."""
        noise = self.noise(rng, across, along)
        slope_y = cv2.Sobel(noise, cv2.CV_32F, 0, 1, scale=self.y / 8)
        slope = np.hypot(slope_y, cv2.Sobel(noise, cv2.CV_32F, 1, 0, scale=self.x / 8)) + 1e-3
        thickness = rng.uniform(0.012, 0.022) + 0.5 / self.y
        lines = np.exp(-((noise / slope / thickness) ** 2))
        return np.asarray(lines * (0.15 + 0.85 * (slope_y / slope) ** 2), np.float32)

    def blur(self, field: Field, sigma: float) -> Field:
        """Return `field` under a Gaussian of `sigma` cm."""
        blurred = cv2.GaussianBlur(field, (0, 0), sigma * self.x + 0.1, sigmaY=sigma * self.y + 0.1)
        return np.asarray(blurred, np.float32)


@dataclass(frozen=True, slots=True)
class _Scanner:
    """Settings of a scanner: carrier in MHz, number of compounded looks, errors of its TGC, and its display."""

    mhz: float
    f_number: float
    looks: int
    noise_floor: float  # dB
    tgc_slope: float  # dB/cm
    tgc_ripple: float  # dB
    display: tuple[float, ...]  # dynamic range and gain in dB, gamma, blur in pixels, black level

    @classmethod
    def draw(cls, rng: Generator) -> "_Scanner":
        dynamic_range, gamma = rng.uniform(50.0, 70.0), rng.uniform(1.0, 1.7)
        gain = dynamic_range * (rng.uniform(0.35, 0.48) + 0.12 * gamma)  # a steeper grey map is run at more gain
        display = (dynamic_range, gain, gamma, rng.uniform(0.3, 0.9), rng.uniform(0.0, 28.0))
        mhz, f_number, looks = rng.uniform(7.0, 13.0), rng.uniform(3.0, 5.5), int(rng.integers(1, 4))
        return cls(mhz, f_number, looks, rng.uniform(-50, -36), rng.uniform(-6, 0), rng.uniform(0, 2), display)


@dataclass(frozen=True, slots=True, eq=False)
class _Lesion:
    """A lesion: its central section, (N, 2) points (x, y) in cm from the image corner, and its acoustic properties."""

    outline: Points
    malignant: bool
    contrast: float
    attenuation: float
    rim: float
    edge_shadow: float

    def fill(self, grid: _Grid, shift: float, elevation: float) -> Field:
        """Return (H, W), 1 inside the section `elevation` radii off the centre, seen `shift` pixels to the right."""
        centre = (self.outline.min(axis=0) + self.outline.max(axis=0)) / 2
        points = centre + (self.outline - centre) * np.sqrt(max(0.0, 1.0 - elevation**2))
        pixels = points * (grid.x, grid.y) - (shift + 0.5, 0.5)
        canvas = np.zeros((grid.height, grid.width), np.uint8)
        cv2.fillPoly(canvas, [np.round(pixels * 16).astype(np.int32)], [1], shift=4)
        return canvas.astype(np.float32)

    def insert(self, grid: _Grid, filled: Field, maps: Field) -> tuple[Field, Field]:
        """Return echogenicity and attenuation (H, W) with the lesion, its rim and its refracting flanks in place."""
        echo, attenuation, grain = maps
        soft = grid.blur(filled, 0.05 if self.malignant else 0.02)
        rim = 2.0 * self.rim * grid.blur(filled, 0.12 if self.malignant else 0.03) * (1 - soft)
        nearby = cv2.blur(filled, (int(grid.x), int(grid.y))) * (1 - filled)
        level = np.float32((echo * nearby).sum() / nearby.sum())
        echo = echo * (1 - soft) + (level - self.contrast + 2.5 * grain) * soft + rim
        flanks = np.abs(cv2.Sobel(soft, cv2.CV_32F, 1, 0, scale=grid.x / 8))
        return echo, attenuation + self.attenuation * soft * (1 + 0.4 * grain) + self.edge_shadow * flanks


def _kernel(sigma: float, centre: float) -> Field:
    """Return a Gaussian of unit energy, which keeps the variance of white scatterers."""
    reach = int(np.ceil(3 * sigma)) + 1
    taps = np.exp(-0.5 * ((np.arange(-reach, reach + 1) - centre) / sigma) ** 2)
    return np.asarray(taps / np.sqrt((taps**2).sum()), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class _Scene:
    """Tissue wider than the image `grid`: `maps` (3, H, W+) and `scatterers` (looks, slabs, H, W+, re/im), float32."""

    seed: int
    label: str
    grid: _Grid
    scanner: _Scanner
    lesion: _Lesion | None
    maps: Field
    scatterers: Field

    def render(self, index: int, shift: float, elevation: float) -> PhantomCase:
        """Return frame `index`, seen `shift` pixels to the right and `elevation` lesion radii off its centre."""
        whole = int(shift)
        maps = self.maps[:, :, whole : whole + self.grid.width]
        echo, attenuation, mask = maps[0], maps[1], np.zeros(maps[0].shape, np.bool_)
        if self.lesion is not None:
            mask = self.lesion.fill(self.grid, shift, elevation) > 0
            filled = self.lesion.fill(self.grid, whole, elevation)
            echo, attenuation = self.lesion.insert(self.grid, filled, maps)
        slabs = self.scatterers[:, :, :, whole : whole + self.grid.width]
        speckle = math.cos(elevation) * slabs[:, 0] + math.sin(elevation) * slabs[:, -1]
        level = self.envelope_level(echo + self.residual_gain(attenuation), speckle, shift - whole, index)
        dynamic_range, gain, gamma, blur, black = self.scanner.display
        shown = np.clip((cv2.GaussianBlur(level, (0, 0), blur) + gain) / dynamic_range, 0.0, 1.0) ** gamma
        pixels = np.asarray(np.round(black + (255.0 - black) * shown), np.uint8)
        return PhantomCase(pixels, mask, self.label, self.seed)

    def residual_gain(self, attenuation: Field) -> Field:
        """Return (H, W) dB left of two-way attenuation, 2 f ∫α dz, after a TGC of wrong slope and with a ripple."""
        scanner, depth = self.scanner, self.grid.depth()
        lost = 2.0 * scanner.mhz / self.grid.y * np.cumsum(attenuation - TGC_ATTENUATION, axis=0, dtype=np.float32)
        # An aperture looks past small absorbers from both sides, which blurs shadows laterally.
        shadows = np.clip(cv2.GaussianBlur(lost, (0, 0), 0.07 * self.grid.x, sigmaY=0.3), -10.0, 30.0)
        ripple = scanner.tgc_ripple * np.sin(2.5 * depth + scanner.mhz)
        return np.asarray(scanner.tgc_slope * depth + ripple - shadows, np.float32)

    def envelope_level(self, echo: Field, speckle: Field, fraction: float, index: int) -> Field:
        """Return the detected envelope (H, W) in dB, averaged in power over the looks of `speckle` (looks, H, W, 2).

        Scatterers are complex Gaussian, so the carrier of the axial pulse is only a phase, which the envelope drops.
        `fraction` of a pixel goes into the lateral kernel, which moves the speckle without resampling.
        """
        scanner, grid, wavelength = self.scanner, self.grid, SOUND_CM_PER_US / self.scanner.mhz
        lateral = _kernel(0.2 + 0.42 * wavelength * scanner.f_number * grid.x, fraction)
        axial = _kernel(0.2 + 0.55 * wavelength * grid.y, 0.0)
        floor = np.linspace(-4.0, 4.0, grid.height, dtype=np.float32)[:, None, None] + scanner.noise_floor
        noise = np.random.default_rng([self.seed, 2, index]).standard_normal((*echo.shape, 2), dtype=np.float32)
        receiver = noise * np.power(10.0, floor / 20.0, dtype=np.float32)
        echoes = speckle * np.power(10.0, echo[..., None] / 20.0, dtype=np.float32) + receiver
        power = sum((np.asarray(cv2.sepFilter2D(look, -1, lateral, axial)) ** 2).sum(axis=2) for look in echoes)
        return np.asarray(10.0 * np.log10(power / (2 * scanner.looks) + 1e-9), np.float32)


def phantom_case(seed: int, *, label: str | None = None, size: tuple[int, int] = (384, 480)) -> PhantomCase:
    """Return one image of `size` (height, width); the seed draws the label where none is given."""
    if label is None:
        label = str(np.random.default_rng([seed, 0]).choice(list(LABEL_ODDS), p=list(LABEL_ODDS.values())))
    return _build_scene(seed, label, size, travel=0.0).render(0, 0.0, 0.0)


def phantom_cine(
    seed: int, *, frames: int = 60, size: tuple[int, int] = (384, 480), label: str = "malignant"
) -> Iterator[PhantomCase]:
    """Return a sweep over one tissue in bounded steps: the lesion drifts to the left, grows and shrinks a little."""
    if frames < 1:
        raise ValueError(f"frames must be at least 1, got {frames}")
    travel = min(0.25, 0.004 * (frames - 1))
    scene = _build_scene(seed, label, size, travel * size[1])
    progress = enumerate(np.linspace(0.0, 1.0, frames).tolist())
    return (scene.render(i, travel * size[1] * part, 5.0 * travel * (part - 0.65)) for i, part in progress)


def _build_scene(seed: int, label: str, size: tuple[int, int], travel: float) -> _Scene:
    """Draw scanner, tissue and lesion for a probe that moves `travel` pixels to the right."""
    if label not in LABEL_ODDS:
        raise ValueError(f"label must be one of {tuple(LABEL_ODDS)}, got {label!r}")
    if min(size) < MIN_SIDE:
        raise ValueError(f"size must be at least {MIN_SIDE} a side, got {size}")
    rng = np.random.default_rng([seed, 1])
    scanner = _Scanner.draw(rng)
    y = size[0] / rng.uniform(3.0, 4.6)
    grid = _Grid(*size, y * rng.uniform(0.9, 1.1), y)
    lesion = None if label == "normal" else _draw_lesion(rng, grid, label == "malignant", 0.65 * travel)
    canvas = replace(grid, width=size[1] + int(np.ceil(travel)))
    maps = _draw_tissue(rng, canvas)
    # Two elevational slabs: mixing them decorrelates the speckle as the probe leaves the plane.
    slabs = (scanner.looks, 2 if travel else 1, canvas.height, canvas.width, 2)
    return _Scene(seed, label, grid, scanner, lesion, maps, rng.standard_normal(slabs, dtype=np.float32))


def _draw_tissue(rng: Generator, grid: _Grid) -> Field:
    """Return (3, H, W): echogenicity in dB and attenuation in dB/cm/MHz of all layers, and a grain for the lesion."""
    noise, depth, uniform = partial(grid.noise, rng), grid.depth(), rng.uniform
    fat_end = uniform(0.15, 0.36) * depth[-1, 0]
    muscle_top = fat_end + uniform(0.3, 0.5) * depth[-1, 0]
    in_fat = _step(fat_end + 0.16 * noise(1.0, 2.0) - depth, 0.05)
    in_muscle = _step(depth - muscle_top, 0.03)
    fat = uniform(-14, -7) + 1.2 * noise(0.2, 0.1) + 2.0 * noise(0.8, 0.3)
    septa = grid.sheets(rng, 1.3, 0.22) + grid.sheets(rng, 1.3, 0.22)
    fat += uniform(8, 18) * septa * _step(noise(0.5, 0.2) + 0.3, 0.6)
    gland = uniform(2.5, 5.5) * noise(0.5, 0.16) + uniform(2, 5) * noise(0.45, 0.035) + 2.5 * noise(0.12, 0.05)
    gland += uniform(6, 14) * grid.sheets(rng, 0.8, 0.15) * (noise(0.8, 0.4) > 0)
    gland -= uniform(0, 9) * _step(noise(0.18, 0.07) - 1.0, 0.3)
    muscle = uniform(-14, -7) + 3.0 * noise(1.2, 0.04)
    muscle += 9.0 * grid.sheets(rng, 1.8, 0.12) * (noise(1.0, 0.1) > -0.3)
    echo = fat * in_fat + (gland * (1 - in_muscle) + muscle * in_muscle) * (1 - in_fat)
    echo += uniform(8, 15) * np.exp(-(((depth - muscle_top) / 0.03) ** 2)) * _step(noise(0.8, 0.3) + 0.6, 0.3)
    attenuation = TGC_ATTENUATION + 0.13 * noise(0.3, 0.8) - 0.08 * in_fat
    y, x = np.indices(echo.shape, dtype=np.float32)
    if rng.random() < 0.2:
        phase = (x / (2.2 * grid.x) + rng.random()) % 1.0 - 0.5  # a rib every 2.2 cm
        inside = depth - muscle_top - uniform(0.5, 0.9) - 2.5 * phase**2
        on_rib = _step(0.28 - np.abs(phase), 0.02)
        echo += 14.0 * np.exp(-((inside / 0.035) ** 2)) * on_rib
        attenuation += 1.6 * on_rib * (inside > 0) * (inside < 0.7)
    # One vertical warp bends all layers together; it fades towards the probe, against which the skin lies flat.
    bend = uniform(0.03, 0.12) * noise(2.2, 3.0) + uniform(-0.12, 0.12) * (x - x.mean()) / grid.x
    rows = np.asarray(y + bend * np.minimum(1.0, depth / 1.2) * grid.y, np.float32)
    tissue = cv2.remap(np.dstack([echo, attenuation]), x, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    echo, attenuation = cv2.split(tissue)
    skin_end = uniform(0.1, 0.2) + 0.01 * noise(1.0, 3.0)
    in_skin = _step(skin_end - depth, 0.012)
    echo = echo * (1 - in_skin) + (2.0 + 8.0 * np.exp(-((depth / 0.03) ** 2)) + 1.5 * noise(0.4, 0.04)) * in_skin
    echo += 7.0 * np.exp(-(((depth - skin_end) / 0.02) ** 2))
    return np.stack([echo, attenuation, noise(0.15, 0.07)]).astype(np.float32)


def _step(distance: Field, softness: float) -> Field:
    """Return 1 where `distance` is positive and 0 where it is negative, with a smooth step between."""
    return np.asarray(0.5 + 0.5 * np.tanh(distance / softness), np.float32)


def _draw_lesion(rng: Generator, grid: _Grid, malignant: bool, offset: float) -> _Lesion:
    """Draw a lesion `offset` pixels to the right of where a single image has it."""
    width, depth, uniform = grid.width / grid.x, grid.height / grid.y, rng.uniform
    radius = uniform(0.3, 0.85) * min(1.0, width / 3.0, depth / 4.0)
    # Tall over wide; the axes keep the area, so that tall lesions are not also the large ones.
    ratio = uniform(1.05, 1.5) if malignant else uniform(0.45, 0.8)
    points = radius * ratio ** np.array([-0.5, 0.5]) * _unit_outline(rng, malignant)
    turn = rng.normal(0.0, 0.15)
    points = points @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    corner = (width * uniform(0.33, 0.67) + offset / grid.x, 0.35 + 0.22 * depth * uniform(0, 1) - points[:, 1].min())
    outline, contrast = np.add(points, corner), uniform(10, 17)
    cyst = not malignant and rng.random() < 0.2
    attenuation = uniform(0.1, 0.8) if malignant else uniform(-0.35, -0.1) - 0.15 * cyst
    rim, edge_shadow = (uniform(3, 7), 0.0) if malignant else (rng.choice([0.0, 6.0]), uniform(0, 0.1))
    return _Lesion(outline, malignant, contrast + 10.5 * cyst, attenuation, rim, edge_shadow)


def _unit_outline(rng: Generator, malignant: bool) -> Points:
    """Return (360, 2) points of a dented unit circle: smooth where benign, else microlobulated or spiculated."""
    angles = np.linspace(0.0, 2 * np.pi, 360, endpoint=False)[:, None]
    orders = np.array([2, 3, 4, 5, 7] if malignant else [2, 3, 4, 5])
    waves = np.cos(orders * angles + rng.uniform(0, 2 * np.pi, len(orders)))
    margin = 1.0 + waves @ rng.normal(0.0, 0.07 if malignant else 0.035, (len(orders), 1))
    if malignant and rng.random() < 0.5:
        uneven = angles + 0.4 * np.sin(angles * 2 + rng.uniform(0, 6))
        margin += rng.uniform(0.15, 0.3) * (np.abs(np.sin(rng.integers(5, 10) * uneven / 2)) - 0.6)
    elif malignant:
        gaps = np.abs((angles - rng.uniform(0, 2 * np.pi, 9) + np.pi) % (2 * np.pi) - np.pi)
        margin += np.exp(-gaps / rng.uniform(0.08, 0.25, 9)) @ rng.uniform(0.0, 0.65, (9, 1))
    return np.asarray(margin * np.hstack([np.cos(angles), np.sin(angles)]))
