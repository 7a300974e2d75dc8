"""How gates begin in a network that already works: still, so that its function is kept, or lively.

Gates with fresh weights would change what every block hands on. A still gate says the same number
for every photo, channel and place; a lively one varies around that number from its first step.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from cbam.attention.gates import ChannelGate, Gate, SpatialGate
from cbam.errors import CannotInsert

SPREAD = 0.3  # standard deviation of a lively gate's logits: its values lie around 0.43 to 0.57
DIRECTIONS = 64  # of the pooled features; the further ones hardly vary


def gates_in(module: nn.Module) -> Iterator[Gate]:
    """The gates of a module, such as CBAM or a whole network, in its order."""
    return (each for each in module.modules() if isinstance(each, Gate))


@torch.no_grad()
def still(attention: nn.Module, channels: int) -> float:
    """Let all gates of `attention` be constant, in place; by what number it multiplies then.

    Each gate's last layer becomes zero: of CBAM's channel gate the MLP's, of its spatial gate the
    norm. Both then say 0.5, and CBAM multiplies by 0.25. Raises CannotInsert for attention that has
    no layer whose zero makes it constant.
    """
    for gate in gates_in(attention):
        layers = [each for each in gate.modules() if getattr(each, "weight", None) is not None]
        for name in ("weight", "bias") if layers else ():
            value = getattr(layers[-1], name, None)
            if isinstance(value, Tensor):
                value.zero_()
    was_training = attention.training
    probe = torch.randn(2, channels, 5, 5, generator=torch.Generator().manual_seed(0)).sign()
    ratio = attention.eval()(probe) / probe
    attention.train(was_training)
    factor = float(ratio.mean())
    if not torch.allclose(ratio, ratio.mean(), rtol=1e-6, atol=0) or factor == 0:
        raise CannotInsert(
            f"{type(attention).__name__} cannot begin still: no zero in its layers makes it a "
            "constant factor, so the network's function would change. Train such a network from "
            "the start: cbam.build."
        )
    return factor


def liven(gate: Gate, features: Tensor, spread: float) -> None:
    """Let a gate begin with logits that vary by `spread` over these features (N, C, H, W).

    In place. The logits have mean 0, so that the gate's values lie around 0.5. Raises CannotInsert
    for a kind of gate that has no such start.
    """
    for kind, start in LIVELY.items():
        if isinstance(gate, kind):
            with torch.no_grad():
                start(gate, features.float(), spread)
            return
    raise CannotInsert(
        f"{type(gate).__name__} has no lively start; "
        f"{', '.join(kind.__name__ for kind in LIVELY)} have. Begin with start='exact'."
    )


def _liven_channel(gate: ChannelGate, features: Tensor, spread: float) -> None:
    """Hidden units along the directions in which the pooled features vary over the photos.

    Fresh weights would look along random directions, in which photos hardly differ: all units would
    be on or off for every photo. Here each unit has mean 0 and deviation 1, so that it is on for
    about half of the photos.
    """
    first, _, last = gate.mlp
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    pooled = gate.pooled(features)  # one or two of (N, C)
    both = torch.cat(list(pooled))
    _, size, directions = torch.linalg.svd(both - both.mean(0), full_matrices=False)
    size, directions = size[:DIRECTIONS], directions[:DIRECTIONS]
    weights = torch.randn(first.out_features, len(size), device=both.device)
    first.weight.copy_(weights @ (directions / (size + 1e-3 * size[0] + TINY)[:, None]))
    first.weight.div_((both @ first.weight.T).std(0)[:, None] + TINY)
    first.bias.copy_(-(both @ first.weight.T).mean(0))

    def logits() -> Tensor:
        hidden: Sequence[Tensor] = [first(each).relu() for each in pooled]
        return torch.stack([each @ last.weight.T for each in hidden]).sum(0)

    nn.init.normal_(last.weight)
    last.weight.mul_(spread / (logits().std(0)[:, None] + TINY))
    last.bias.copy_(-logits().mean(0) / len(pooled))  # the MLP runs once for each pooled vector


def _liven_spatial(gate: SpatialGate, features: Tensor, spread: float) -> None:
    """The norm's statistics are those of these photos, and its weight gives the spread."""
    logits = gate.conv(gate.planes(features))
    assert gate.bn.running_mean is not None
    assert gate.bn.running_var is not None
    variance, eps = float(logits.var()), gate.bn.eps
    gate.bn.running_mean.copy_(logits.mean())
    gate.bn.running_var.fill_(variance)
    # The norm divides by more than the deviation; features that hardly vary are not blown up.
    gate.bn.weight.fill_(spread * ((variance + eps) / max(variance, eps / 100)) ** 0.5)
    gate.bn.bias.zero_()


TINY = 1e-12  # features that do not vary at all give no direction; dividing by 0 would give NaN
LIVELY: dict[type[Gate], Callable[..., None]] = {
    ChannelGate: _liven_channel,
    SpatialGate: _liven_spatial,
}
