r"""Log-mel spectrograms in plain torch.

$$ \text{mel}(f) = 2595 \log_{10}(1 + f / 700), \qquad
   \text{out}_{m,t} = \log\Big(\varepsilon + \sum_f B_{m,f} \, |\text{STFT}(x)_{f,t}|^2\Big) $$

with triangles B of equal width in mel, each reaching from the centre before to the centre after.
"""

from __future__ import annotations

import torch
from torch import Tensor

WINDOW, HOP = 256, 128  # samples: 32 and 16 ms at 8 kHz
_FLOOR = 1e-6


def log_mel(waves: Tensor, rate: int, bands: int = 32) -> Tensor:
    """Log energies [N, bands, frames] of waves [N, samples] on [-1, 1]; one frame per hop, and one more.

    Args:
        waves: samples along the last dimension.
        rate: samples per second.
        bands: triangles from 0 Hz to half the rate.
    """
    window = torch.hann_window(WINDOW, dtype=waves.dtype)
    spectrum = torch.stft(waves, WINDOW, HOP, window=window, pad_mode="constant", return_complex=True)
    power = spectrum.abs().square()  # [N, frequencies, frames]
    return torch.log(_FLOOR + triangles(bands, WINDOW // 2 + 1, rate).to(power) @ power)


def triangles(bands: int, frequencies: int, rate: int) -> Tensor:
    """The filters B [bands, frequencies]."""
    hertz = torch.linspace(0, rate / 2, frequencies, dtype=torch.float64)
    corners = torch.linspace(0, float(_mel(torch.tensor(rate / 2))), bands + 2, dtype=torch.float64)
    place = _mel(hertz)
    width = corners[1]
    return (1 - (place - corners[1:-1, None]).abs() / width).clamp(min=0)


def _mel(hertz: Tensor) -> Tensor:
    return 2595 * torch.log10(1 + hertz / 700)
