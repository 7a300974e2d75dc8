"""What a network's gates are for: its answers with every gate held at its mean over photos.

A gate that says the same about every photo could be folded into the weights. Holding all of them at
their means takes away what they say about a single photo, and leaves everything else as it was.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cbam.backbones import blocks
from cbam.trace.cut import Cut
from cbam.trace.intervene import Change, changeable, changed


def mean_gates(cut: Cut, batches: Sequence[Tensor]) -> dict[str, Tensor]:
    """The mean map over all photos of each gate that is applied, by its name in `cut.places`.

    `batches` are images (N, 3, H, W) of one size. Gates that are only shown are left out.
    """
    applied = [name for name, place in cut.places.items() if place.kind.use != "shown"]
    sums: dict[str, Tensor] = {}
    for batch in batches:
        _, maps = cut.run_trunk(batch)
        for name in applied:
            total = maps[name].sum(dim=0, keepdim=True)
            sums[name] = sums[name] + total if name in sums else total
    photos = sum(len(batch) for batch in batches)
    return {name: total / photos for name, total in sums.items()}


def logits_with_mean_gates(network: nn.Module, batches: Sequence[Tensor]) -> Tensor:
    """All photos' logits with every gate held at its mean over these photos: (photos, classes).

    Expects eval mode. The means are those of the network as it is. Without gates, these are its
    own logits.
    """
    cut = changeable(network, blocks(network)[-1])
    means = mean_gates(changed(cut, {}), batches)
    held = changed(cut, {name: Change.held(mean) for name, mean in means.items()})
    rows: list[Tensor] = []
    for batch in batches:
        activation, _ = held.run_trunk(batch)
        with torch.inference_mode():
            logits, _ = held.run_head(activation)
        rows.append(logits)
    return torch.cat(rows)
