"""forwardgrad: train PyTorch models without storing activations; gradients come from forward passes.

Names are imported when they are first used, so that the command line can answer before torch is loaded.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forwardgrad import blackbox, errors, exact, federated, layers, testing, wall_model
    from forwardgrad.bilevel import TangentGrowth, Unroll, tangent_growth
    from forwardgrad.blackbox import BlackBox, Surrogate, SurrogateControl
    from forwardgrad.citation import cite
    from forwardgrad.combine import Control, Mean, Mmse, Project
    from forwardgrad.compiled import CompiledBackward
    from forwardgrad.diagnosis import doctor
    from forwardgrad.distributed import SplitDirections
    from forwardgrad.estimate import Accumulate, Apply, Collect, Estimate, Method, backward
    from forwardgrad.exact import Moonwalk, PureMoonwalk
    from forwardgrad.federated import Spry
    from forwardgrad.fixedpoint import (
        DtypeTrace,
        FixedPointNet,
        FixedPointObjective,
        IntegerCrossEntropy,
        SignSPSA,
        quantise,
    )
    from forwardgrad.forward_ad import inner_gradient, push_forward, rule, stop_gradient
    from forwardgrad.gradient import FactoredGradient
    from forwardgrad.learning_rate import suggest_lr
    from forwardgrad.measurement import Measurement, forward_baseline, measure
    from forwardgrad.methods import (
        DFA,
        FDFA,
        SPSA,
        ActivityPerturbed,
        Backprop,
        CheckpointedBackprop,
        ControlVariate,
        DirectKolenPollack,
        ForwardGradient,
        Neumann,
        TruncatedUnroll,
        TwoPhase,
    )
    from forwardgrad.module import ModuleObjective
    from forwardgrad.objective import Chained, Differentiable, FunctionObjective, Objective, Sited
    from forwardgrad.optim import (
        Box,
        ConstraintSet,
        FrankWolfe,
        L1Ball,
        L2Ball,
        LinfBall,
        LpBall,
        NuclearBall,
        Simplex,
    )
    from forwardgrad.passport import Passport
    from forwardgrad.slopes import Central, Jvp, OneSided
    from forwardgrad.tangents import (
        CoordinateDraw,
        Gaussian,
        Key,
        MomentumMixed,
        Orthonormal,
        Rademacher,
        RankOneRademacher,
        Sparse,
        Sphere,
        Tangents,
    )

_WHERE = {
    "bilevel": "TangentGrowth Unroll tangent_growth",
    "blackbox": "BlackBox Surrogate SurrogateControl",
    "citation": "cite",
    "combine": "Control Mean Mmse Project",
    "compiled": "CompiledBackward",
    "diagnosis": "doctor",
    "distributed": "SplitDirections",
    "estimate": "Accumulate Apply Collect Estimate Method backward",
    "exact": "Moonwalk PureMoonwalk",
    "federated": "Spry",
    "fixedpoint": "DtypeTrace FixedPointNet FixedPointObjective IntegerCrossEntropy SignSPSA quantise",
    "forward_ad": "inner_gradient push_forward rule stop_gradient",
    "gradient": "FactoredGradient",
    "learning_rate": "suggest_lr",
    "measurement": "Measurement forward_baseline measure",
    "methods": "DFA FDFA SPSA ActivityPerturbed Backprop CheckpointedBackprop ControlVariate DirectKolenPollack "
    "ForwardGradient Neumann TruncatedUnroll TwoPhase",
    "module": "ModuleObjective",
    "objective": "Chained Differentiable FunctionObjective Objective Sited",
    "optim": "Box ConstraintSet FrankWolfe L1Ball L2Ball LinfBall LpBall NuclearBall Simplex",
    "passport": "Passport",
    "slopes": "Central Jvp OneSided",
    "tangents": "CoordinateDraw Gaussian Key MomentumMixed Orthonormal Rademacher RankOneRademacher Sparse Sphere "
    "Tangents",
}
_NAMES = {name: module for module, names in _WHERE.items() for name in names.split()}
_MODULES = ("blackbox", "errors", "exact", "federated", "layers", "testing", "wall_model")

__all__ = [
    "DFA",
    "FDFA",
    "SPSA",
    "Accumulate",
    "ActivityPerturbed",
    "Apply",
    "Backprop",
    "BlackBox",
    "Box",
    "Central",
    "Chained",
    "CheckpointedBackprop",
    "Collect",
    "CompiledBackward",
    "ConstraintSet",
    "Control",
    "ControlVariate",
    "CoordinateDraw",
    "Differentiable",
    "DirectKolenPollack",
    "DtypeTrace",
    "Estimate",
    "FactoredGradient",
    "FixedPointNet",
    "FixedPointObjective",
    "ForwardGradient",
    "FrankWolfe",
    "FunctionObjective",
    "Gaussian",
    "IntegerCrossEntropy",
    "Jvp",
    "Key",
    "L1Ball",
    "L2Ball",
    "LinfBall",
    "LpBall",
    "Mean",
    "Measurement",
    "Method",
    "Mmse",
    "ModuleObjective",
    "MomentumMixed",
    "Moonwalk",
    "Neumann",
    "NuclearBall",
    "Objective",
    "OneSided",
    "Orthonormal",
    "Passport",
    "Project",
    "PureMoonwalk",
    "Rademacher",
    "RankOneRademacher",
    "SignSPSA",
    "Simplex",
    "Sited",
    "Sparse",
    "Sphere",
    "SplitDirections",
    "Spry",
    "Surrogate",
    "SurrogateControl",
    "TangentGrowth",
    "Tangents",
    "TruncatedUnroll",
    "TwoPhase",
    "Unroll",
    "backward",
    "blackbox",
    "cite",
    "doctor",
    "errors",
    "exact",
    "federated",
    "forward_baseline",
    "inner_gradient",
    "layers",
    "measure",
    "push_forward",
    "quantise",
    "rule",
    "stop_gradient",
    "suggest_lr",
    "tangent_growth",
    "testing",
    "wall_model",
]

__version__ = version("forwardgrad")


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        value = getattr(import_module(f"forwardgrad.{_NAMES[name]}"), name)
    elif name in _MODULES:
        value = import_module(f"forwardgrad.{name}")
    else:
        raise AttributeError(f"module 'forwardgrad' has no attribute {name!r}")
    globals()[name] = value  # found once; a function wins over the module of the same name
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
