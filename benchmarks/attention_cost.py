# ruff: noqa: T201
"""What attention costs: latency of SE and CBAM networks over that of the plain network.

    python -m benchmarks.attention_cost [--backbone resnet50] [--batch 1] [--rounds 40]
                                        [--threads 2] [--engine openvino ...] [--side 224]
                                        [--clock cpu] [--profile] [--markdown]
                                        [--train [--bf16]]

Every row is a ratio from one run. The networks of an engine take turns, in a new order each round.
A row shows the median of the rounds' ratios, and the ratio of the fastest rounds, which a busy
machine disturbs least. On a machine that is never quiet, `--clock cpu --threads 1` measures the CPU
time of the process instead of wall time. Engines:

    plain      the modules as they are written, channels-last; no norm is folded in any network
    eager      the back end "eager": norms are folded, and the last product is joined with the sum
    numba      the back end "numba": the same, with CBAM's gates compiled by Numba
    openvino   the back end "openvino" in float32; it folds norms and joins sums, too

"naive" is CBAM written directly from its formulas, for this comparison: pooling layers to 1 x 1,
the MLP run twice, and gates expanded to the size of the feature map.

The floor is the work that CBAM needs in any case. In each block, it reads the feature map (for
maximum and mean over the image, in one pass at best), writes the map that the channel gate leaves,
and reads it again (for maximum and mean over the channels). The last product can be part of the
residual sum, which the plain network has as well. The same run measures how long torch takes to
read and write tensors of these sizes. The multiplications of the MLPs and of the 7x7 convolutions
are counted at the speed that the plain network reaches.

`--train` measures instead what attention costs in training: a whole step, forward and backward, in
float32 (or, with `--bf16`, under autocast) over that of the plain network. "amax" is CBAM with
PyTorch's own backward pass of the maximum in place of this project's (cbam/attention/pools.py).
It takes 16 photos at once unless `--batch` says otherwise: a norm needs more than one value.

`--markdown` prints a table at the end: the parameters and multiply-adds that each module adds to
the whole network, and its ratio in each engine, of the fastest rounds.

`--profile` prints which operations of the engine "eager" make the difference. It uses torch's
profiler, which slows small operations down.
"""

import argparse
import time
import timeit
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import cbam
from benchmarks.timing import Clock, race
from cbam.attention import ATTENTION, CBAM, PLAIN, pools
from cbam.backbones import BACKBONES, blocks
from cbam.backends.choose import BACKENDS, accelerate
from cbam.trace.cut import cut_at

TARGET = 1.10
TRAINING_BATCH = 16
PAPER_PX = 224  # multiply-adds are counted for photos of this size, as in the paper
NAIVE = "naive"
ENGINES = ("plain", "eager", "numba", "openvino")
Call = Callable[[Tensor], object]


class Naive(nn.Module):
    """CBAM as a direct reading of its formulas, with the weights of one of ours."""

    def __init__(self, ours: CBAM) -> None:
        super().__init__()
        assert ours.channel is not None
        assert ours.spatial is not None
        self.mlp = ours.channel.mlp
        self.conv, self.bn = ours.spatial.conv, ours.spatial.bn

    def forward(self, x: Tensor) -> Tensor:
        average = nn.functional.adaptive_avg_pool2d(x, 1)
        largest = nn.functional.adaptive_max_pool2d(x, 1)
        logits = self.mlp(average.flatten(1)) + self.mlp(largest.flatten(1))
        x = x * torch.sigmoid(logits)[:, :, None, None].expand_as(x)
        planes = torch.stack((torch.max(x, 1)[0], torch.mean(x, 1)), dim=1)
        return x * torch.sigmoid(self.bn(self.conv(planes)))


def networks(backbone: str) -> dict[str, nn.Module]:
    """The same network by kind of attention, with norms as if trained, in eval mode."""
    found: dict[str, nn.Module] = {}
    for kind in (*ATTENTION, NAIVE):
        torch.manual_seed(0)
        network = cbam.build(backbone, attention="cbam" if kind == NAIVE else kind)
        network.eval().requires_grad_(False)
        for norm in network.modules():
            if isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None:
                norm.running_var.uniform_(0.5, 2.0)
                norm.weight.uniform_(0.5, 1.0)
        if kind == NAIVE:
            for block in blocks(network):
                module = network.get_submodule(block)
                assert isinstance(module.attention, CBAM)
                module.attention = Naive(module.attention)
        found[kind] = network.to(memory_format=torch.channels_last)
    return found


def call_of(network: nn.Module, engine: str, side_px: int) -> Call:
    """The network up to its last block in an engine: what the service runs for every photo."""
    cut = cut_at(network, blocks(network)[-1])
    if engine == "plain":
        return cut.trunk
    return accelerate(cut, engine, side_px)[0].trunk


def fastest_ms(call: Callable[[], object], clock: Clock, rounds: int = 30) -> float:
    """The fastest of some calls."""
    return min(timeit.repeat(call, timer=clock, number=1, repeat=rounds)) * 1000


def gmacs(network: nn.Module, images: Tensor) -> float:
    """10^9 multiply-adds."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images)
    return float(counter.get_total_flops()) / 2e9


def floor_ms(
    nets: dict[str, nn.Module], images: Tensor, plain_ms: float, clock: Clock
) -> tuple[float, float]:
    """The least that CBAM's passes and CBAM's operations take here, in milliseconds."""
    passes = 0.0
    with torch.inference_mode():
        activation, maps = cut_at(nets[PLAIN], blocks(nets[PLAIN])).run_trunk(images)
        for features in (activation, *maps.values()):  # as large as what its block's gates see
            flat = features.flatten()
            copy = torch.empty_like(flat)
            read_ms = min(fastest_ms(flat.max, clock), fastest_ms(flat.sum, clock))
            passes += 2 * read_ms + fastest_ms(partial(copy.copy_, flat), clock)
    macs = {kind: gmacs(nets[kind], images) for kind in (PLAIN, "cbam")}
    return passes, plain_ms * (macs["cbam"] / macs[PLAIN] - 1)


def operations_ms(call: Call, images: Tensor, rounds: int) -> Counter[str]:
    """Milliseconds of a pass in each operation itself, without those that it calls."""
    found: Counter[str] = Counter()
    with torch.inference_mode():
        for _ in range(10):
            call(images)
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            for _ in range(rounds):
                call(images)
    for event in profiled.key_averages():
        found[event.key] += event.self_cpu_time_total / 1000 / rounds
    return found


def print_profile(nets: dict[str, nn.Module], images: Tensor, side_px: int, rounds: int) -> None:
    """Where CBAM's time goes, operation by operation."""
    plain, cbam_ms = (
        operations_ms(call_of(nets[kind], "eager", side_px), images, rounds)
        for kind in (PLAIN, "cbam")
    )
    print(
        f"eager      ms a pass: none {plain.total():.2f}, cbam {cbam_ms.total():.2f}; by operation:"
    )
    rows = sorted(((cbam_ms[name] - plain[name], name) for name in cbam_ms), reverse=True)
    for more, name in rows[:12]:
        print(f"{more:+7.2f}  {name}  ({plain[name]:.2f} -> {cbam_ms[name]:.2f})")


def step_of(network: nn.Module, images: Tensor, bf16: bool, amax: bool = False) -> Call:
    """A training step without the optimiser's part, which is the same for all."""
    network.train().requires_grad_()

    def step(_: Tensor) -> object:
        network.zero_grad()
        ours = nullcontext() if not amax else patch.object(pools, "_to_be_trained", lambda x: False)
        with ours, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = network(images).float().square().mean()
        torch.autograd.backward(loss)
        return loss.detach()

    return step


def print_table(nets: dict[str, nn.Module], ratios: dict[str, dict[str, float]]) -> None:
    """What each module adds, and its ratio by engine, as Markdown."""
    print(f"\n| module | parameters | GMACs | {' | '.join(ratios)} |")
    print("|---" * (3 + len(ratios)) + "|")
    image = torch.zeros(1, 3, PAPER_PX, PAPER_PX)
    counts = {
        kind: (sum(map(Tensor.numel, network.parameters())), gmacs(network, image))
        for kind, network in nets.items()
        if kind != NAIVE
    }
    own_params, own_gmacs = counts.pop(PLAIN)
    print(f"| {PLAIN} | {own_params:,} | {own_gmacs:.3f} |{' 1 |' * len(ratios)}")
    for kind, (params, macs) in counts.items():
        times = " | ".join(f"{by_kind[kind]:.3f}" for by_kind in ratios.values())
        print(f"| {kind} | +{params - own_params:,} | +{macs - own_gmacs:.4f} | {times} |")


def print_training(nets: dict[str, nn.Module], images: Tensor, asked: argparse.Namespace) -> None:
    """Training steps of all kinds, and of CBAM as it was with PyTorch's backward of `amax`."""
    clock = time.process_time if asked.clock == "cpu" else time.perf_counter
    calls = {kind: step_of(network, images, asked.bf16) for kind, network in nets.items()}
    calls["amax"] = step_of(nets["cbam"], images, asked.bf16, amax=True)
    del calls[NAIVE]
    runs = {kind: partial(call, images) for kind, call in calls.items()}
    times = race("training", runs, asked.rounds, clock=clock)
    if times.missing:
        raise SystemExit(dict(times.missing))
    for kind, ms in times.ms.items():
        median, fastest = times.row(kind, kind, PLAIN).ratio, min(ms) / min(times.ms[PLAIN])
        print(
            f"train      {kind:6} fastest {min(ms):7.1f} ms   ratio: median {median:.3f}, "
            f"fastest {fastest:.3f}",
            flush=True,
        )


def main() -> None:
    """Print the table."""
    about = __doc__ or ""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--backbone", default="resnet50", choices=list(BACKBONES))
    parser.add_argument("--batch", type=int, help="default: 1; for --train 16")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"])
    parser.add_argument("--engine", action="append", choices=ENGINES)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--bf16", action="store_true")
    asked = parser.parse_args()
    asked.batch = asked.batch or (TRAINING_BATCH if asked.train else 1)

    clock = time.process_time if asked.clock == "cpu" else time.perf_counter
    torch.set_num_threads(asked.threads)
    torch.manual_seed(1)
    images = torch.randn(asked.batch, 3, asked.side, asked.side)
    images = images.to(memory_format=torch.channels_last)
    nets = networks(asked.backbone)
    print(
        f"{asked.backbone}, batch {asked.batch}, {asked.side} px, {asked.threads} threads, "
        f"{asked.clock} time, {asked.rounds} rounds, torch {torch.__version__}; "
        + ("a training step" if asked.train else "to the last block")
    )
    if asked.train:
        print_training(nets, images, asked)
        return
    if asked.profile:
        print_profile(nets, images, asked.side, asked.rounds)
        return
    ratios: dict[str, dict[str, float]] = {}
    for engine in asked.engine or ENGINES:
        if engine in BACKENDS and (missing := BACKENDS[engine].missing()):
            print(f"{engine:10} not measured: {missing}")
            continue
        calls = {kind: call_of(network, engine, asked.side) for kind, network in nets.items()}
        runs = {kind: partial(call, images) for kind, call in calls.items()}
        with torch.inference_mode():
            times = race("attention", runs, asked.rounds, clock=clock)
        if times.missing:
            raise SystemExit(f"{engine}: {dict(times.missing)}")
        fastest = {kind: min(ms) for kind, ms in times.ms.items()}
        plain_ms = fastest[PLAIN]
        ratios[engine] = {kind: ms / plain_ms for kind, ms in fastest.items()}
        passes_ms, macs_ms = floor_ms(nets, images, plain_ms, clock)
        floor = 1 + (passes_ms + macs_ms) / plain_ms
        for kind, ms in fastest.items():
            median = times.row(kind, kind, PLAIN).ratio
            print(
                f"{engine:10} {kind:6} fastest {ms:7.2f} ms   ratio: median "
                f"{median:.3f}, fastest {ms / plain_ms:.3f}",
                flush=True,
            )
        reached = fastest["cbam"] / plain_ms
        met = "met" if reached <= TARGET else "missed"
        print(
            f"{engine:10} target {TARGET:.2f} {met}; floor {floor:.3f} "
            f"(passes {passes_ms:.2f} ms, operations {macs_ms:.2f} ms); "
            f"cbam is {reached - floor:+.3f} from it"
        )
    if asked.markdown:
        print_table(nets, ratios)


if __name__ == "__main__":
    main()
