r"""
A wall that is not resolved
===========================

Near a wall a turbulent flow has its smallest eddies, and resolving them is most of what a simulation costs. A wall
model spares it: it tells the stress on the wall, :math:`\tau_w = u_\tau^2`, from the velocity :math:`u` at one height
:math:`y` above it, by way of :math:`\mathrm{Re}_y = u y / \nu`. Here it is Reichardt's law, corrected by a net of 321
weights that never saw a backward pass. It learns from simulations of channels at friction Reynolds numbers of 180, 550,
2000 and 5200, and is shown one at 1000.
"""

import matplotlib.pyplot as plt
import torch

import forwardgrad as fg
from forwardgrad.train.tasks.channel import ChannelFlow, log_stress_error, stress_errors
from forwardgrad.train.tasks.profiles import read_all
from forwardgrad.wall_model import Channel, Reichardt, WallModel, uniform

plt.style.use("forwardgrad.train.look")
torch.set_num_threads(1)

train, held, test = ChannelFlow().load()
model = WallModel(generator=torch.Generator().manual_seed(0))
optimizer = torch.optim.Adam(model.parameters(), 1e-2)
method, steps = fg.ForwardGradient(16), 500
for step in range(steps):
    optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / steps)
    optimizer.zero_grad()
    fg.backward(method, model, log_stress_error, *train, key=fg.Key(0, step))
    optimizer.step()
before, after = (float(stress_errors(one, *test).mean()) for one in (WallModel(), model))
print(f"wall stress at Re_tau = 1000: the law is {before:.1%} off, the corrected law {after:.1%}")
assert after < 0.75 * before

# %%
# In a solver the model takes the place of the wall. Half a channel in 24 equal cells knows nothing of what happens
# below the first centre, at :math:`y^+ = 21`; the stress is asked for at the third, at :math:`y^+ = 104`.

truth = read_all("channel")[1000]
nu = 1 / (truth.bulk_velocity * truth.friction_reynolds)  # in units of half height and bulk velocity
channel = Channel(uniform(24), nu, model.double().requires_grad_(False).stress, cell=2)
u = channel.steady()
friction = float(channel.wall_stress(u)) ** 0.5
off = (friction * truth.bulk_velocity) ** 2 - 1
print(f"friction in the solver: {off:+.1%}")
assert abs(off) < 0.06

# %%
# What the net has learned is one curve (right): how far a flow is from the law. No two simulations agree about it to
# the last percent: in the middle of the channel the flow feels more than the wall, and at 180 there is little else.

law = Reichardt()
reynolds = torch.logspace(0, 4.3, 200, dtype=torch.float64)
height = model(reynolds).exp()
fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), width_ratios=(1.25, 1))
left.plot(truth.wall_height[1:], truth.velocity[1:], color="black", lw=2, label="simulation, Re_tau = 1000")
y = torch.logspace(-0.5, 3, 200)
left.plot(y, law.velocity(y), color="#E69F00", ls="--", label="Reichardt's law")
left.plot(channel.heights * friction / nu, u / friction, "o", ms=5, color="#0072B2", label="solver with the wall model")
left.axvline(float(channel.heights[2] * friction / nu), color="#0072B2", lw=0.8, ls=":")
left.set(title="Velocity in wall units, u+", xscale="log", xlim=(1, 1000), ylim=(0, None))
left.set_xlabel("y+", loc="left")
left.legend(loc="upper left")
for number, profile in read_all("channel").items():
    inside = (profile.wall_height > 1) & (profile.height < 0.3)
    y, v = profile.wall_height[inside], profile.velocity[inside]
    tested = number == 1000
    name = f"{number}, not seen" if tested else str(number)
    colour = "black" if tested else plt.cm.Greys(0.25 + 0.08 * len(str(number)) + number / 2e4)
    right.plot(y, 100 * (v / law.velocity(y) - 1), color=colour, lw=2 if tested else 1.2, label=name)
right.plot(height, 100 * (reynolds / height / law.velocity(height) - 1), color="#0072B2", ls="--", label="the net")
right.axhline(0, color="#E69F00", ls="--", lw=1)
right.set(title="Velocity above the law, percent", xscale="log", xlim=(1, None))
right.set_xlabel("y+", loc="left")
right.legend(loc="center left", bbox_to_anchor=(1, 0.5), title="Re_tau")
plt.show()
