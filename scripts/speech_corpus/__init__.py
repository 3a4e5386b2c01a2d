"""Speech with known phonemes from free synthesizers, for `pretrain_speech.py`."""
