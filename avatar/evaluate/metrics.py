"""Scores of rendered frames against the untouched clip: PSNR and SSIM, also per region, sharpness, jitter, curves.

Everything is computed on full frames in the video's own colours, 0..1. ``psnr`` and ``ssim`` of a clip are means of the
per-frame values, as the talking-head papers report them (AD-NeRF, TalkingGaussian); the per-region scores pool the
pixels of all frames first, because a region (an open mouth) may be a few pixels in one frame and none in the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8

from avatar.conventions import MOUTH_BLENDSHAPES, REGION_HEAD, REGION_MOUTH, REGIONS
from avatar.evaluate.jitter import Jitter
from avatar.evaluate.landmark_distance import LandmarkDistance
from avatar.track.parallel import ahead, batches

MAX_PSNR: Final = 100.0
"""dB given to identical pictures, so that a mean stays finite; 8-bit pictures that differ at all stay far below it."""

SSIM_SIGMA: Final = 1.5
SSIM_RADIUS: Final = 5
"""11x11 Gaussian window, Wang et al. 2004."""
SSIM_ROWS: Final = 64
"""Rows of windows that are worked on at once: so many stay in a core's cache."""
SSIM_C1: Final = 0.01**2
SSIM_C2: Final = 0.03**2

STILL: Final = 0.01
"""Standard deviation below which a coefficient curve does not move: its correlation would be that of noise."""

Frame = UInt8[np.ndarray, "H W 3"] | Float[np.ndarray, "H W 3"]


def psnr_from_mse(mse: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error of values in 0..1; at most `MAX_PSNR`."""
    return float(min(MAX_PSNR, -10.0 * np.log10(max(mse, 1e-20))))


def psnr(
    image: Float[np.ndarray, "H W 3"],
    truth: Float[np.ndarray, "H W 3"],
    mask: Bool[np.ndarray, "H W"] | None = None,
) -> float:
    """PSNR in dB of one frame, over the whole frame or over the pixels of `mask`.

    Args:
        image: rendered colours, 0..1.
        truth: the clip's colours, 0..1.
        mask: True where pixels count.

    Raises:
        ValueError: the mask is empty.
    """
    if mask is not None and not mask.any():
        raise ValueError("psnr over an empty mask")
    error = np.square(image.astype(np.float64) - truth)
    return psnr_from_mse(float((error if mask is None else error[mask]).mean()))


def ssim(image: Float[np.ndarray, "H W 3"], truth: Float[np.ndarray, "H W 3"]) -> float:
    """Structural similarity of one frame, 1 = identical: mean over channels and all positions of the 11x11 window.

    Wang et al. 2004 with the Gaussian window (sigma 1.5, K1 0.01, K2 0.03, data range 1) and population covariances;
    windows that reach over the border do not count. The same number as scikit-image's `structural_similarity` with
    ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, channel_axis=-1``.

    Args:
        image: rendered colours, 0..1.
        truth: the clip's colours, 0..1.

    Raises:
        ValueError: the frame is smaller than the window.
    """
    return float(ssim_map(image, truth).mean())


def ssim_map(image: Float[np.ndarray, "H W 3"], truth: Float[np.ndarray, "H W 3"]) -> Float[np.ndarray, "h w"]:
    """`ssim` of every window, mean over channels; the window of entry (0, 0) has its middle at pixel (SSIM_RADIUS,
    SSIM_RADIUS)."""
    if min(image.shape[:2]) <= 2 * SSIM_RADIUS:
        raise ValueError(f"ssim needs frames of at least {2 * SSIM_RADIUS + 1} px")
    strips = [slice(s.start, s.stop + 2 * SSIM_RADIUS) for s in batches(len(image) - 2 * SSIM_RADIUS, SSIM_ROWS)]
    return np.concatenate(list(ahead(len(strips), lambda k: _ssim_of_strip(image[strips[k]], truth[strips[k]]))))


def _ssim_of_strip(image: Float[np.ndarray, "H W 3"], truth: Float[np.ndarray, "H W 3"]) -> Float[np.ndarray, "h w"]:
    x, y = (np.moveaxis(picture, 2, 0).astype(np.float64) for picture in (image, truth))
    return np.mean([_ssim_of_channel(*pair) for pair in zip(x, y, strict=True)], axis=0)


def _ssim_of_channel(x: Float[np.ndarray, "H W"], y: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "h w"]:
    mean_x, mean_y = _blur_inside(x), _blur_inside(y)
    var_x, var_y = _blur_inside(x * x) - mean_x**2, _blur_inside(y * y) - mean_y**2
    covariance = _blur_inside(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x**2 + mean_y**2 + SSIM_C1)
    structure = (2 * covariance + SSIM_C2) / (var_x + var_y + SSIM_C2)
    return luminance * structure


def _blur_inside(values: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "h w"]:
    """Gaussian means of the windows that lie fully inside, by sums of shifted copies.

    Plain NumPy on purpose: a library with threads of its own spends longer waiting for them on so little work when the
    machine is busy, and strips are shared out already.
    """
    offsets = np.arange(-SSIM_RADIUS, SSIM_RADIUS + 1)
    weights = np.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
    weights /= weights.sum()
    for _ in range(2):  # columns, then rows
        length = values.shape[0] - 2 * SSIM_RADIUS
        blurred = values[SSIM_RADIUS : SSIM_RADIUS + length] * weights[SSIM_RADIUS]
        pair = np.empty_like(blurred)
        for near, far in zip(range(SSIM_RADIUS), range(2 * SSIM_RADIUS, SSIM_RADIUS, -1), strict=True):
            np.add(values[near : near + length], values[far : far + length], out=pair)
            pair *= weights[near]
            blurred += pair
        values = blurred.T
    return values


def gradient_magnitude(image: Float[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W"]:
    """Length of the luma gradient per pixel (central differences), in units of 0..1 per pixel."""
    down, right = np.gradient(luma_of(image))
    return np.hypot(down, right)


def luma_of(image: Float[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W"]:
    """Brightness with BT.709 weights, 0..1."""
    return image @ np.array([0.2126, 0.7152, 0.0722], dtype=image.dtype)


class Scores:
    """Accumulates the scores of a clip one frame at a time; holds sums and the last two frames.

    Frames are rounded to 8 bits before they are scored, so that anyone can recompute the numbers from the saved
    pictures.
    """

    def __init__(self, landmark_distance: LandmarkDistance | None = None) -> None:
        """`landmark_distance` adds ``lmd`` to the result; without it ``lmd`` is None."""
        self._lmd = landmark_distance
        self._psnr: list[float] = []
        self._ssim: list[float] = []
        self._squared_error = np.zeros(len(REGIONS))
        self._pixels = np.zeros(len(REGIONS))
        self._similarity = np.zeros(len(REGIONS))
        self._windows = np.zeros(len(REGIONS))
        self._gradient = np.zeros(len(REGIONS))
        self._true_gradient = np.zeros(len(REGIONS))
        self._crop_error, self._crop_pixels = 0.0, 0
        self._jitter, self._number = Jitter(), -1

    def add(
        self,
        frame: Frame,
        truth: Frame,
        labels: UInt8[np.ndarray, "H W"],
        mouth_box: tuple[int, int, int, int] | None = None,
        number: int | None = None,
    ) -> float:
        """Scores one frame and returns its PSNR in dB.

        Args:
            frame: the rendering, uint8 or float 0..1 (what lies outside is clipped).
            truth: the clip's own frame, uint8 or float 0..1.
            labels: region label (`conventions.REGION_*`) of each pixel of the true frame.
            mouth_box: left, top, right, bottom (exclusive) of the crop around the lips (`dataset.mouth_box`).
            number: frame number in the clip; None follows the frame before.

        Raises:
            ValueError: the two pictures differ in size, or a label is not a region.
        """
        if frame.shape != truth.shape or labels.shape != truth.shape[:2]:
            raise ValueError(f"frame {frame.shape}, truth {truth.shape} and labels {labels.shape} differ in size")
        frame8, truth8 = to_uint8(frame), to_uint8(truth)
        image, true = frame8.astype(np.float32) / 255, truth8.astype(np.float32) / 255
        self._psnr.append(psnr(image, true))
        self._add_similarity(ssim_map(image, true), labels)
        squared = np.square(image - true).mean(axis=2)
        self._squared_error += _per_region(squared, labels)
        if mouth_box is not None:
            left, top, right, bottom = mouth_box
            crop = squared[top:bottom, left:right]
            self._crop_error += float(crop.sum(dtype=np.float64))
            self._crop_pixels += crop.size
        self._number = self._number + 1 if number is None else number
        self._jitter.add(self._number, luma_of(image), luma_of(true), np.isin(labels, (REGION_HEAD, REGION_MOUTH)))
        self._pixels += _per_region(np.ones(labels.shape, np.float32), labels)
        self._gradient += _per_region(gradient_magnitude(image), labels)
        self._true_gradient += _per_region(gradient_magnitude(true), labels)
        if self._lmd is not None:
            self._lmd.add(frame8, truth8)
        return self._psnr[-1]

    def result(self) -> dict[str, Any]:
        """The scores so far, JSON-ready.

        Returns:
            ``psnr`` (dB, mean of per-frame values), ``ssim`` (mean of per-frame values), ``background``, ``torso``,
            ``head``, ``mouth`` (dB of the squared error pooled over all frames; None for a region never seen; ``mouth``
            is the inside of the lips), ``mouth_crop`` (dB of the box around the lips, pooled likewise; None without
            boxes), ``jitter`` (of the head, see `jitter`: ``error`` in levels of 255, ``ratio``),
            ``region_ssim`` (region -> mean SSIM of the windows whose middle lies in it, pooled; None where none does),
            ``error_share`` (region -> share of all squared error, sums to 1), ``sharpness`` (region -> mean gradient,
            rendered / true; 1 is as sharp as the clip, below is blurred; also ``frame``), ``lmd`` (px or None),
            ``frames``, ``per_frame`` (PSNR list), ``per_frame_ssim``, ``notes`` (sentences about what could not be
            scored).

        Raises:
            ValueError: nothing was added.
        """
        if not self._psnr:
            raise ValueError("no frame was scored")
        scores: dict[str, Any] = {"psnr": float(np.mean(self._psnr)), "ssim": float(np.mean(self._ssim))}
        for index, name in enumerate(REGIONS):
            pixels = self._pixels[index]
            scores[name] = psnr_from_mse(self._squared_error[index] / pixels) if pixels else None
        scores["mouth_crop"] = psnr_from_mse(self._crop_error / self._crop_pixels) if self._crop_pixels else None
        scores["jitter"] = self._jitter.result()
        scores["region_ssim"] = {
            name: float(total / count) if count else None
            for name, total, count in zip(REGIONS, self._similarity, self._windows, strict=True)
        }
        total = self._squared_error.sum()
        scores["error_share"] = {
            name: float(error / total) if total else 0.0
            for name, error in zip(REGIONS, self._squared_error, strict=True)
        }
        scores["sharpness"] = self._sharpness()
        scores["lmd"], notes = (None, []) if self._lmd is None else self._lmd.result()
        return scores | {
            "frames": len(self._psnr),
            "per_frame": list(self._psnr),
            "per_frame_ssim": list(self._ssim),
            "notes": notes,
        }

    def _add_similarity(self, similarity: Float[np.ndarray, "h w"], labels: UInt8[np.ndarray, "H W"]) -> None:
        self._ssim.append(float(similarity.mean()))
        middles = labels[SSIM_RADIUS:-SSIM_RADIUS, SSIM_RADIUS:-SSIM_RADIUS]
        self._similarity += _per_region(similarity, middles)
        self._windows += _per_region(np.ones(middles.shape), middles)

    def _sharpness(self) -> dict[str, float | None]:
        names = (*REGIONS, "frame")
        ours_and_true = ([*sums, sums.sum()] for sums in (self._gradient, self._true_gradient))
        pairs = zip(names, *ours_and_true, strict=True)
        return {name: float(ours / true) if true > 0 else None for name, ours, true in pairs}


def to_uint8(frame: Frame) -> UInt8[np.ndarray, "H W 3"]:
    """Colours 0..1 rounded to 8 bits (clipped); uint8 frames pass through."""
    if frame.dtype == np.uint8:
        return frame
    return np.rint(np.clip(frame, 0, 1) * 255).astype(np.uint8)


def _per_region(values: Float[np.ndarray, "H W"], labels: Integer[np.ndarray, "H W"]) -> Float[np.ndarray, " R"]:
    """Sum of `values` over the pixels of each region, in the order of `REGIONS`."""
    sums = np.bincount(labels.ravel(), values.ravel().astype(np.float64), minlength=len(REGIONS))
    if len(sums) > len(REGIONS):
        raise ValueError(f"region label {len(sums) - 1} is not one of 0..{len(REGIONS) - 1}")
    return sums


def correlation(a: Float[np.ndarray, " N"], b: Float[np.ndarray, " N"]) -> float | None:
    """Pearson correlation of two curves; None where either is still (it would be that of noise)."""
    if len(a) < 2 or min(float(np.std(a)), float(np.std(b))) <= 1e-6:
        return None
    return float(np.corrcoef(a.astype(np.float64), b.astype(np.float64))[0, 1])


def compare_coefficients(
    predicted: Float[np.ndarray, "N K"],
    truth: Float[np.ndarray, "N K"],
    names: Sequence[str] = MOUTH_BLENDSHAPES,
) -> dict[str, Any]:
    """How well predicted coefficient curves follow the tracked ones.

    Args:
        predicted: coefficients 0..1 of N frames.
        truth: tracked coefficients of the same frames.
        names: the K columns' names.

    Returns:
        ``correlation`` (name -> Pearson correlation, for the columns that move in the truth), ``correlation_mean``
        (over those columns; a prediction that stands still counts as 0; None when none moves), ``active`` (their
        number), ``mae`` (mean absolute error over all columns), ``gain`` (spread of the predicted curves over that of
        the true ones, moving columns pooled: below 1 is a mumbling mouth), ``frames``.

    Raises:
        ValueError: `names` does not fit the columns, or there is no frame.
    """
    if len(names) != truth.shape[1] or not len(truth):
        raise ValueError(f"{len(names)} names for coefficients of shape {truth.shape}")
    moving = [k for k in range(len(names)) if np.std(truth[:, k]) > STILL]
    found = {names[k]: correlation(predicted[:, k], truth[:, k]) or 0.0 for k in moving}
    spread = float(np.var(truth[:, moving], axis=0).sum()) if moving else 0.0
    return {
        "correlation": found,
        "correlation_mean": float(np.mean(list(found.values()))) if found else None,
        "active": len(found),
        "mae": float(np.abs(predicted - truth).mean()),
        "gain": float(np.sqrt(np.var(predicted[:, moving], axis=0).sum() / spread)) if spread else None,
        "frames": len(truth),
    }


def representative_frames(per_frame: Sequence[float]) -> dict[str, int]:
    """Positions of the best, median and worst frame of a PSNR list, so that a report shows the bad ones too; labels
    that fall on the same frame are dropped."""
    order = np.argsort(np.asarray(per_frame))[::-1]
    marks = {"best": 0.0, "median": 0.5, "worst": 1.0}
    chosen: dict[str, int] = {}
    for label, share in marks.items():
        position = int(order[round(share * (len(order) - 1))])
        if position not in chosen.values():
            chosen[label] = position
    return chosen
