"""Stage 4: capture, track and speech as training examples."""

from avatar.dataset.frames import FrameBatch, FrameSet, MotionBatch, motion_tensors, mouth_box

__all__ = ["FrameBatch", "FrameSet", "MotionBatch", "motion_tensors", "mouth_box"]
