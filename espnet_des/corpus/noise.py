"""Noise that is mixed into generated speech."""

import numpy as np


def add_noise(wave: np.ndarray, snr_db: float, rng: np.random.Generator) -> np.ndarray:
    """Mix in noise whose spectrum falls by a random power of frequency.

    Args:
        wave: ``(num_samples,)``.
        snr_db: ratio of speech to noise power.
    """
    spectrum = np.fft.rfft(rng.standard_normal(len(wave)))
    slope = rng.uniform(0.0, 1.0)  # 0: white, 1: brown
    spectrum *= np.maximum(np.arange(len(spectrum)), 1.0) ** -slope
    noise = np.fft.irfft(spectrum, len(wave))
    power = np.mean(wave**2) / np.mean(noise**2) / 10 ** (snr_db / 10)
    mixed = wave + np.sqrt(power) * noise
    return (mixed * min(1.0, 0.9 / np.abs(mixed).max())).astype(np.float32)
