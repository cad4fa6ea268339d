"""`WallModel`: a law of the wall, corrected by a small net."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Generator, Tensor, nn
from torch.nn.utils import skip_init

from forwardgrad.errors import InputError
from forwardgrad.wall_model.law import Law, Reichardt

REACH = (0.0, 10.5)  # of ln Re_y: from y+ = 1 to y/delta = 0.3 at Re_tau = 5200; beyond, the nearest end's correction


class WallModel(nn.Module):
    r"""Wall stress out of velocity, height and viscosity at one point of the flow.

    .. math:: \tau_w = u_\tau^2, \qquad u_\tau = \nu y^+ / y, \qquad
        \ln y^+ = \ln y^+_{\mathrm{law}}(\mathrm{Re}_y) + N_\theta(\ln \mathrm{Re}_y), \qquad \mathrm{Re}_y = u y/\nu

    All that enters is known where the wall is not resolved: no friction velocity, and no thickness of the layer. The
    net's last layer starts at zero, so that an untrained model is its law.

    Args:
        widths: of the hidden layers, each followed by tanh.
        law: what the net corrects; `Viscous()` leaves all to the net.
        generator: source of the weights; torch's default where none is given.

    Raises:
        InputError: no hidden layer, or one without units; `stress` at a height or viscosity that is not positive.

    Note:
        Beyond the local Reynolds numbers of the profiles that it is trained on the correction stays that of the nearest
        end, so that a transient of a solver meets the law and not an extrapolated net.
    """

    def __init__(
        self, widths: Sequence[int] = (16, 16), law: Law = Reichardt(), generator: Generator | None = None
    ) -> None:
        super().__init__()
        if not widths or min(widths) < 1:
            raise InputError(
                "a wall model needs hidden layers with units", f"widths {list(widths)}", "give for example (16, 16)"
            )
        self.law = law
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise((1, *widths)):
            linear = skip_init(nn.Linear, fan_in, fan_out)  # its own init would draw from torch's default generator
            for parameter in linear.parameters():
                nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5, generator=generator)
            layers += [linear, nn.Tanh()]
        last = nn.Linear(widths[-1], 1)
        nn.init.zeros_(last.weight), nn.init.zeros_(last.bias)
        self.net = nn.Sequential(*layers, last)

    def forward(self, reynolds: Tensor) -> Tensor:
        """ln y+ [..] of local Reynolds numbers Re_y = u y / nu > 0 [..]."""
        return self.law.log_height(reynolds) + self.correction(reynolds)

    def correction(self, reynolds: Tensor) -> Tensor:
        """What the net adds to the law's ln y+ [..]; all that there is to train, so that losses may leave the law out.

        Args:
            reynolds: Re_y > 0 [..].
        """
        low, high = REACH
        inside = reynolds.log().clamp(low, high)
        scaled = 3 * (2 * inside - low - high) / (high - low)  # on [-3, 3], where fresh tanh units bend
        return self.net(scaled.unsqueeze(-1)).squeeze(-1)

    def stress(self, velocity: Tensor, height: Tensor, viscosity: float) -> Tensor:
        """Kinematic wall stress [..] in m^2/s^2, of the velocity's sign.

        Args:
            velocity: along the wall, in m/s [..].
            height: above the wall, in m, of a shape that fits.
            viscosity: kinematic, in m^2/s.

        Raises:
            InputError: a height or the viscosity is not positive.
        """
        if not (viscosity > 0 and bool((height > 0).all())):
            found = f"nu = {viscosity:g}, y >= {float(height.min()):g}"
            raise InputError("a wall stress needs heights and a viscosity > 0", found, "give both in SI units")
        reynolds = velocity.abs() * height / viscosity
        # Where the flow turns round, Re_y = 0: no stress, and a logarithm that must not be met.
        friction = viscosity * self(reynolds.clamp_min(1e-6)).exp() / height
        return velocity.sign() * friction.square()
