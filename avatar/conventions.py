"""Axes, units, names and constants that every stage shares. One page; nothing here computes.

Head space
    Origin at the head's centre, x to image right for an upright face, y up, z out of the face, centimetres.
    Canonical Gaussians of every branch live here.
Camera space
    OpenCV axes: x right, y down, z forward, centimetres. Pinhole, pixel centres at +0.5 (the centre of the top
    left pixel is (0.5, 0.5)), one focal length per clip in pixels, principal point at the image centre.
Transforms
    Named ``target_from_source``, compose right to left: ``camera_from_head @ head_point``. Stored as 3x4 or 4x4.
Torso space
    The same canonical space carried by the body: in the clip's reference frame ``camera_from_torso`` equals
    ``camera_from_head``; a Gaussian's skin weight (1 = head, 0 = torso) blends the two.
Colours
    The video's own: sRGB-encoded, BT.709 decoded, 0..1 (uint8 on disk). Compositing happens in that space.
Quaternions
    wxyz, not necessarily normalised in storage.
Time
    Seconds from the clip's first frame. Any frame rate works.
"""

from __future__ import annotations

from typing import Final

SAMPLE_RATE: Final = 16_000
"""Speech is mono float32 in -1..1 at this rate, samples per second."""

HELD_OUT_FRACTION: Final = 1 / 11
"""The last 1/11 of a clip is held out, as the talking-head literature does (AD-NeRF, TalkingGaussian)."""

# The branches, front to back; the index is the rasterizer's layer number and the compositing order
# (face over mouth over torso over backdrop).
BRANCHES: Final = ("face", "mouth", "torso")

# Region labels of a frame (uint8, one per pixel).
REGION_BACKGROUND: Final = 0
REGION_TORSO: Final = 1
REGION_HEAD: Final = 2
REGION_MOUTH: Final = 3
"""Inside of the lips: teeth, tongue, cavity. Everything of the head that is not this is REGION_HEAD."""
REGIONS: Final = ("background", "torso", "head", "mouth")

# The 52 ARKit coefficients, 0..1, in the order of MediaPipe's Face Landmarker with `tongueOut` (which MediaPipe
# does not estimate) at the end in place of MediaPipe's `_neutral` at the start. Left and right are the person's own.
BLENDSHAPES: Final = (
    "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight",
    "cheekPuff", "cheekSquintLeft", "cheekSquintRight",
    "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight", "eyeLookInLeft", "eyeLookInRight",
    "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight", "eyeSquintLeft", "eyeSquintRight",
    "eyeWideLeft", "eyeWideRight",
    "jawForward", "jawLeft", "jawOpen", "jawRight",
    "mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel",
    "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthSmileLeft",
    "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft", "mouthUpperUpRight",
    "noseSneerLeft", "noseSneerRight",
    "tongueOut",
)  # fmt: skip
BLENDSHAPE_INDEX: Final = {name: i for i, name in enumerate(BLENDSHAPES)}
MOUTH_BLENDSHAPES: Final = tuple(n for n in BLENDSHAPES if n.startswith(("jaw", "mouth", "tongue")))
"""What speech drives and what the mouth branch sees."""
MOUTH_INDICES: Final = tuple(BLENDSHAPE_INDEX[n] for n in MOUTH_BLENDSHAPES)

CODES: Final = {"head_codes": 8, "mouth_codes": 6, "torso_codes": 6}
"""Appearance codes of a frame (`avatar.track.codes`), in this order, about 0 and of unit size."""

LANDMARKS: Final = 478
"""MediaPipe face mesh with irises: 468 skin points, then 5 + 5 iris points."""
