"""Train one member of a family: from a recipe and photos to float32 weights.

Needs the extra `[train]` (accelerate, TensorBoard). On several GPUs: `accelerate launch -m app.cli
train ...`; the loop is the same.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch._dynamo as dynamo
from accelerate import Accelerator
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter

from cbam.attention import Gate
from cbam.backbones import build
from cbam.training.data import Folders, Stacked, batches, normalise
from cbam.training.precision import chosen_precision
from cbam.training.recipe import Recipe
from cbam.training.replacing import replacing


@dataclass(frozen=True)
class Trained:
    """What a training left: where its float32 weights are, and how its last epoch went."""

    weights: Path
    loss: float
    accuracy: float


def train(
    recipe: Recipe,
    attention: str,
    dataset: Folders | Stacked,
    run: Path,
    workers: int = 1,
    compiled: bool = False,
) -> Trained:
    """Train `attention`'s member in the folder `run`, resuming from its checkpoint if it has one.

    `compiled`: with torch.compile, which wants a C++ compiler: the network on a GPU; on a CPU the
    attention modules alone.
    Leaves `checkpoint.pt`, TensorBoard events and at the end `weights.safetensors`: float32, of the
    moving average if the recipe asks for one.
    """
    run.mkdir(parents=True, exist_ok=True)
    checkpoint = run / "checkpoint.pt"
    state = None
    if checkpoint.exists():  # on the CPU: the device is the accelerator's to choose
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    before = state.get("precision", "bf16") if state else None  # it was not kept when it was fixed
    precision = chosen_precision(recipe, attention, run, before)
    accelerator = Accelerator(mixed_precision=precision)
    recipe = recipe.shared_by(accelerator.num_processes)

    torch.manual_seed(recipe.seed)
    plain = build(recipe.backbone, **recipe.build_options(attention))
    plain = plain.to(accelerator.device).to(memory_format=torch.channels_last)
    optimizer = _optimizer(recipe, plain)
    decay = get_ema_multi_avg_fn(recipe.ema_decay)  # type: ignore[no-untyped-call]
    average = AveragedModel(plain, multi_avg_fn=decay, use_buffers=True)
    network, optimizer = accelerator.prepare(plain, optimizer)
    if compiled:
        network = _compiled(plain, network, accelerator.device)
    steps = len(dataset) // (recipe.batch_size * accelerator.num_processes)
    schedule = LambdaLR(optimizer.optimizer, lambda step: recipe.rate(step / steps))
    first = 0
    if state:
        plain.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first = state["epoch"]

    board = SummaryWriter(str(run)) if accelerator.is_main_process else None
    loss, accuracy = math.nan, math.nan
    for epoch in range(first, recipe.epochs):
        if at := recipe.finish_at(epoch):
            decay = get_ema_multi_avg_fn(at[0].ema_decay)  # type: ignore[no-untyped-call]
            average.multi_avg_fn = decay
        loader = _loader(dataset, recipe, epoch, workers, accelerator)
        network.train()
        seen = 0
        # Kept on the device: asking for a number would make it wait in every step.
        loss_sum, right = torch.zeros(2, device=accelerator.device)
        title = f"{run.name} {epoch + 1}/{recipe.epochs} at {recipe.image_size_px(epoch)} px"
        for photos, targets in _progress(title, loader, steps, accelerator.is_main_process):
            logits = network(normalise(photos, recipe))
            batch_loss = nn.functional.cross_entropy(
                logits.float(), targets, label_smoothing=recipe.smoothing(epoch)
            )
            optimizer.zero_grad()
            accelerator.backward(batch_loss)
            optimizer.step()
            schedule.step()
            if recipe.ema_decay:
                average.update_parameters(plain)
            seen += len(targets)
            loss_sum += batch_loss.detach() * len(targets)
            right += (logits.argmax(1) == targets).sum()
        loss, accuracy = float(loss_sum) / seen, float(right) / seen
        if board is not None:
            board.add_scalar("train/loss", loss, epoch + 1)
            board.add_scalar("train/accuracy", accuracy, epoch + 1)
            board.add_scalar("train/learning_rate", schedule.get_last_lr()[0], epoch + 1)
            board.flush()
            accelerator.print(f"{title}: loss {loss:.3f}, training accuracy {accuracy:.3f}")
            state = {
                "network": plain.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "epoch": epoch + 1,
                "precision": precision,
            }
            with replacing(checkpoint) as file:
                torch.save(state, file)

    weights = run / "weights.safetensors"
    if accelerator.is_main_process:
        best = average.module if recipe.ema_decay else plain
        save_file(
            {key: value.contiguous().cpu() for key, value in best.state_dict().items()}, weights
        )
    accelerator.wait_for_everyone()
    return Trained(weights, loss, accuracy)


def _loader(
    dataset: Folders | Stacked, recipe: Recipe, epoch: int, workers: int, accelerator: Accelerator
) -> Iterable[tuple[Tensor, Tensor]]:
    """One epoch's batches for this process, on its device."""
    if isinstance(dataset, Stacked):
        rank, processes = accelerator.process_index, accelerator.num_processes
        return dataset.batches(recipe, epoch, accelerator.device, rank, processes)
    loader: Iterable[tuple[Tensor, Tensor]] = accelerator.prepare(
        batches(dataset, recipe, epoch, workers)
    )
    return loader


def _compiled(plain: nn.Module, network: nn.Module, device: torch.device) -> nn.Module:
    """`network`, which is `plain` prepared for `device`, compiled where that pays.

    On a GPU all of it; on a CPU, in place and for each shape that they meet, the modules that hold
    gates: convolutions gain nothing there.
    """
    dynamo.config.recompile_limit = 128  # modules of one class share it: blocks x image sizes
    for module in plain.modules():
        if any(isinstance(part, Gate) for part in module.children()):
            exact = _in_float32(module.forward)
            on_cpu = device.type == "cpu"
            module.forward = torch.compile(exact, dynamic=False) if on_cpu else exact
    return network if device.type == "cpu" else torch.compile(network)  # type: ignore[return-value]


def _in_float32(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The same in float32 whatever the precision around it.

    Compiled, a backward pass computes products anew; rounded otherwise than before, none of them is
    the maximum whose gradient it looks for, and that gradient is 0 / 0.
    """

    def in_float32(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return forward(x.float()).to(x.dtype)

    return in_float32


def _optimizer(recipe: Recipe, network: nn.Module) -> Optimizer:
    """SGD or AdamW; biases and norms decay only if the recipe says so."""
    decay = [p for p in network.parameters() if p.ndim > 1]
    rest = [p for p in network.parameters() if p.ndim <= 1]
    groups = [
        {"params": decay, "weight_decay": recipe.weight_decay},
        {"params": rest, "weight_decay": recipe.weight_decay if recipe.decay_norms else 0.0},
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate)
    return torch.optim.SGD(
        groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.nesterov
    )


def _progress(
    title: str, loader: Iterable[tuple[Tensor, Tensor]], steps: int, show: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """The loader's batches, with a progress bar on a terminal."""
    columns = (
        TextColumn("{task.description}", markup=False),  # it holds names of the recipe
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not show, transient=True) as progress:
        yield from progress.track(loader, total=steps, description=title)
