"""How the phantoms are drawn, in coordinates that do not depend on the image size.

u runs from -1 (left) to 1 (right), v from -1 (top) to 1 (bottom). The sign of a disease is a
texture

    T(u, v) = sum_m cos(2 pi (u cos a_m + v sin a_m) / w_m + p_m) / sqrt(M / 2)

of M plane waves with random directions a, phases p and wavelengths w of 3 to 4.5 pixels at 32 x 32:
unit variance, and symmetric about zero. Its mean over the lesion is removed, so neither the
brightness of a place nor any other linear function of the pixels tells the classes apart; only
local variation does.
"""

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.float64]
Drawing = tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]

# Half-width of an edge; large enough for 64 pixels, and the same scene at any size.
SOFT = 0.016
FINE = (3 * 2 / 32, 4.5 * 2 / 32)
COARSE = (0.5, 1.2)
# Grey levels of the texture at difficulty 0.
CHEST_AMPLITUDE = 60.0
LESION_AMPLITUDE = 60.0


def draw_chest(
    size_px: int, body: np.random.Generator, exposure: np.random.Generator, strength: float
) -> Drawing:
    """Return a frontal chest radiograph (H, W) uint8 and the mask of its opacities.

    Args:
        size_px: Side in pixels.
        body: Generator of what a patient keeps: anatomy.
        exposure: Generator of what every image has anew: pose, brightness, noise, opacities.
        strength: Amplitude of the opacities in [0, 1]; 0 draws none.
    """
    u, v = _grid(size_px, exposure, tilt=0.05, shift=0.05, zoom=0.06)
    width, height = body.uniform(0.3, 0.34), body.uniform(0.62, 0.7)
    apart, middle_v = body.uniform(0.4, 0.44), body.uniform(-0.1, -0.04)
    lungs = [_lung(u, v, side * apart, middle_v, width, height) for side in (-1, 1)]
    lung = np.maximum(*lungs)

    shoulder = v + 0.86 - 0.5 * np.clip(np.abs(u) - 0.28, 0, None) ** 1.4
    torso = _inside(0.9 - np.abs(u) - 0.05 * v**2, 3 * SOFT) * _inside(shoulder, 3 * SOFT)
    torso = np.maximum(torso, _inside(0.27 - np.abs(u), 3 * SOFT) * (v < 0))
    image = 12 + (106 + 9 * _smooth(u, v, body, COARSE) + 18 * _inside(v - 0.5, 0.4)) * torso
    spine = np.exp(-((u / 0.15) ** 4)) * torso
    middle = np.maximum(0.85 * spine, _heart(u, v, body))
    air = lung * (1 - 0.9 * middle)
    image += 62 * middle - 72 * air
    image += air * (
        14 * np.exp(-(((np.abs(u) - 0.2) / 0.13) ** 2)) + 4 * _smooth(u, v, body, COARSE)
    )
    image += _ribs(u, v, body) * torso * (0.3 + 0.7 * air)

    mask = np.zeros(lung.shape, dtype=bool)
    if strength > 0:
        window = air * _opacities(u, v, (apart, middle_v), (width, height), exposure)
        image += strength * CHEST_AMPLITUDE * _balanced(_smooth(u, v, exposure, FINE), window)
        mask = window > 0.5
    image = 128 + (image - 128) * exposure.uniform(0.85, 1.1) + exposure.uniform(-12, 14)
    return _to_uint8(image + exposure.normal(0, 2.5, image.shape)), mask


def draw_lesion(
    size_px: int, body: np.random.Generator, exposure: np.random.Generator, strength: float
) -> Drawing:
    """Return a dermoscopy image (H, W, 3) uint8 and the mask of its pigmented lesion.

    Both classes have a lesion of the same size and mean colour; `strength` makes its border
    irregular and its pigment variegated.

    Args:
        size_px: Side in pixels.
        body: Generator of what a patient keeps: the skin.
        exposure: Generator of what every image has anew: lesion, light, hair, noise.
        strength: Amplitude of the malignant signs in [0, 1]; 0 draws a naevus.
    """
    u, v = _grid(size_px, exposure, tilt=np.pi, shift=0.15, zoom=0.1)
    skin = np.array([220, 170, 146]) + body.normal(0, 9) + body.normal(0, 4, 3)
    pigment = np.array([122, 80, 58]) + exposure.normal(0, 12) + exposure.normal(0, 4, 3)
    image = skin + 6 * _smooth(u, v, exposure, COARSE)[..., None]

    radius, angle = np.hypot(u, v), np.arctan2(v, u)
    border = _border(angle, exposure, strength) * exposure.uniform(0.42, 0.58)
    window = _inside(border - radius, (5 - 3 * strength) * SOFT)
    rim = 1 - 0.35 * np.clip(radius / border, 0, 1) ** 3
    image = image + (window * rim)[..., None] * (pigment - skin)
    if strength > 0:
        network = _balanced(_smooth(u, v, exposure, FINE), window)
        patches = _balanced(_smooth(u, v, exposure, (0.35, 0.7)), window)
        blue_white = np.array([0.5, 0.9, 1.3])
        image = image + strength * LESION_AMPLITUDE * (
            0.5 * network[..., None] + 0.55 * patches[..., None] * blue_white
        )
    image = image * (1 - _hairs(size_px, exposure))[..., None]
    row, column = _grid(size_px, None)
    corner = np.clip(np.hypot(row, column) - 0.8, 0, None) ** 2
    image = image * (1 - exposure.uniform(0.2, 1.6) * corner)[..., None]
    image = image * exposure.uniform(0.88, 1.08) + exposure.normal(0, 2.5, image.shape)
    return _to_uint8(image), window > 0.5


def _grid(
    size_px: int,
    rng: np.random.Generator | None,
    tilt: float = 0.0,
    shift: float = 0.0,
    zoom: float = 0.0,
) -> tuple[Plane, Plane]:
    """Return (u, v) at the pixel centres, moved by a random pose within the given limits."""
    axis = (np.arange(size_px) + 0.5) * 2 / size_px - 1
    v, u = np.meshgrid(axis, axis, indexing="ij")
    if rng is None:
        return u, v
    angle, scale = rng.uniform(-tilt, tilt), 1 + rng.uniform(-zoom, zoom)
    u, v = u * scale - rng.uniform(-shift, shift), v * scale - rng.uniform(-shift, shift)
    return u * np.cos(angle) - v * np.sin(angle), u * np.sin(angle) + v * np.cos(angle)


def _inside(level: Plane, width: float) -> Plane:
    """Return 1 where `level` > 0, 0 where < 0, with a soft edge of about `width`."""
    return 0.5 * (1 + np.tanh(level / width))


def _smooth(
    u: Plane, v: Plane, rng: np.random.Generator, wavelengths: tuple[float, float]
) -> Plane:
    """Return T(u, v) of the module's head: unit variance, wavelengths in coordinate units."""
    num_waves = 12
    angle, phase = rng.uniform(0, 2 * np.pi, (2, num_waves, 1, 1))
    wavelength = rng.uniform(*wavelengths, (num_waves, 1, 1))
    along = (u * np.cos(angle) + v * np.sin(angle)) / wavelength
    total: Plane = np.cos(2 * np.pi * along + phase).sum(axis=0)
    return total / float(np.sqrt(num_waves / 2))


def _balanced(texture: Plane, window: Plane) -> Plane:
    """Return the texture inside the window with its mean over the window removed."""
    balanced: Plane = window * (texture - (window * texture).sum() / window.sum())
    return balanced


def _lung(u: Plane, v: Plane, centre: float, middle_v: float, width: float, height: float) -> Plane:
    """Return one lung: an ellipse, narrow at the apex, cut below by the dome of the diaphragm."""
    up = (v - middle_v) / height
    taper = 1 - 0.35 * np.clip(-up, 0, 1) ** 1.5 + 0.06 * np.clip(up, 0, 1)
    ellipse = 1 - (np.abs(u - centre) / (width * taper)) ** 2.6 - np.abs(up) ** 3
    dome = 0.44 + 0.9 * (u - 0.7 * centre) ** 2 - 0.05 * (centre < 0)
    return _inside(ellipse, 8 * SOFT) * _inside(dome - v, 2.5 * SOFT)


def _heart(u: Plane, v: Plane, body: np.random.Generator) -> Plane:
    """Return the heart, a soft tilted ellipse that leans to the right of the image."""
    centre, radius = body.uniform(0.1, 0.16), body.uniform(0.26, 0.33)
    across = (u - centre) * 0.83 - (v - 0.26) * 0.55
    along = (u - centre) * 0.55 + (v - 0.26) * 0.83
    return _inside(1 - (across / radius) ** 2 - (along / (1.35 * radius)) ** 2, 0.35)


def _ribs(u: Plane, v: Plane, body: np.random.Generator) -> Plane:
    """Return the ribs, bright bands that fall to the sides, and the clavicles."""
    spacing, fall = body.uniform(0.2, 0.23), body.uniform(0.4, 0.6)
    phase = body.uniform(0, 2 * np.pi)
    wave = np.cos(2 * np.pi * (v - fall * u**2) / spacing + phase)
    clavicle = v + 0.58 - 0.22 * np.abs(u) + 0.12 * np.sin(4 * u * np.sign(u))
    return 13 * np.abs(wave) * wave * np.exp(-((u / 0.85) ** 6)) + 22 * np.exp(
        -((clavicle / 0.04) ** 2)
    ) * _inside(np.abs(u) - 0.1, 0.05)


def _opacities(
    u: Plane,
    v: Plane,
    centre: tuple[float, float],
    radii: tuple[float, float],
    rng: np.random.Generator,
) -> Plane:
    """Return the soft window of one to three opacities at random places in the lungs."""
    window = np.zeros_like(u)
    for _ in range(rng.integers(1, 4)):
        # Away from the heart and the edges, so that every opacity is seen.
        place_u = rng.choice((-1, 1)) * (centre[0] + radii[0] * rng.uniform(-0.2, 0.4))
        place_v = centre[1] + radii[1] * rng.uniform(-0.6, 0.25)
        wide, high = rng.uniform(0.2, 0.32), rng.uniform(0.24, 0.4)
        distance = ((u - place_u) / wide) ** 2 + ((v - place_v) / high) ** 2
        window = np.maximum(window, np.exp(-(distance**2)))
    return window


def _border(angle: Plane, rng: np.random.Generator, strength: float) -> Plane:
    """Return r(angle) of the lesion's outline, scaled so that the area is that of a unit circle."""
    around = np.linspace(0, 2 * np.pi, 256, endpoint=False)
    outline, unit = np.ones_like(angle), np.ones_like(around)
    for harmonic in range(2, 9):
        size, phase = rng.normal(), rng.uniform(0, 2 * np.pi)
        size *= 0.05 + 0.06 * strength if harmonic < 5 else 0.05 * strength
        outline += size * np.cos(harmonic * angle + phase)
        unit += size * np.cos(harmonic * around + phase)
    scaled: Plane = outline / np.sqrt(np.mean(unit**2))
    return scaled


def _hairs(size_px: int, rng: np.random.Generator) -> Plane:
    """Return how much hair darkens each pixel: up to five thin curved lines, in either class."""
    u, v = _grid(size_px, None)
    width = 0.02 + 0.4 / size_px  # a hair thinner than a pixel would be drawn dashed
    shade = np.zeros_like(u)
    for _ in range(rng.integers(0, 6)):
        angle, offset, bend = rng.uniform(0, np.pi), rng.uniform(-0.9, 0.9), rng.normal(0, 0.2)
        along = u * np.cos(angle) + v * np.sin(angle)
        across = -u * np.sin(angle) + v * np.cos(angle) - offset - bend * along**2
        shade = np.maximum(shade, rng.uniform(0.3, 0.6) * np.exp(-((across / width) ** 2)))
    return shade


def _to_uint8(image: Plane) -> npt.NDArray[np.uint8]:
    return np.rint(np.clip(image, 0, 255)).astype(np.uint8)
