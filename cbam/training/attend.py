"""Train networks side by side: the same batches for all, one pass of the teacher for all.

    plain = torchvision.models.resnet18(weights=weights)
    photos = Bank("photos")
    attended = cbam.insert(plain, start="lively", photos=photos.sample(256, Preprocess(224)))
    attend({"cbam": attended}, photos, Plan(minutes=60, distil=Distil()), Path("runs/mine"), plain)

Everything that a step draws depends on the seed and the step's number alone. So a training that was
stopped goes on as if it had not been, and all members see the same views.
"""

import copy
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, interpolate, kl_div
from torch.optim import Optimizer

from cbam.attention.start import gates_in
from cbam.backbones import blocks
from cbam.backends.choose import EAGER, accelerate
from cbam.errors import BadRecipe
from cbam.images.preprocess import Preprocess
from cbam.trace.cut import Cut, cut_at
from cbam.trace.insert import insert
from cbam.trace.intervene import Change, changeable, changed
from cbam.training.bank import Bank
from cbam.training.data import normalise
from cbam.training.plan import Distil, Plan
from cbam.training.precision import PRECISIONS, Precision, named, speeds
from cbam.training.replacing import replacing

Answers = tuple[Tensor, Tensor]  # pooled features (B, C), logits (B, classes)
Row = dict[str, Any]  # one report, as log.jsonl has it
# Keys of a plan that may have other values when a training goes on.
MAY_CHANGE = {"samples", "minutes", "reports", "checkpoint_minutes"}
EMA_WARM_UP = 10  # early on the average follows the weights: after k steps, by (1 + k) / (10 + k)
VECTOR_SIZE = 0.2  # of a gate's bias or norm, for its optimiser: they may begin at zero


@dataclass(eq=False)
class _Member:
    """A network on its way, the average of its weights, and what moves them."""

    name: str
    network: nn.Module
    average: nn.Module
    cut: Cut  # of the network
    averages_cut: Cut
    optimisers: list[tuple[Optimizer, list[float]]]  # each group's rate at the top of the schedule
    losses: list[Tensor] = field(default_factory=list)  # since the last report
    told: Cut | None = None  # the average, its gates to be told what to say

    def state(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser, _ in self.optimisers],
            "losses": self.losses,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        for (optimiser, _), saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.losses = list(state["losses"])


def attend(
    members: Mapping[str, nn.Module],
    photos: Bank,
    plan: Plan,
    run: Path,
    teacher: nn.Module | None = None,
    preprocess: Preprocess | None = None,
    teacher_preprocess: Preprocess | None = None,
    say: Callable[[str], None] = print,
    clock: Callable[[], float] = time.monotonic,
) -> list[Row]:
    """Train these networks as the plan says, in place; they end as the averages of their weights.

    They are networks whose blocks are known, such as those of `cbam.insert`. `teacher` is needed if
    the plan has `distil`; otherwise the photos need classes. `preprocess` gives the networks' input
    (size, mean, deviation; by default 224 px and ImageNet's), `teacher_preprocess` the teacher's.
    In the folder `run` it leaves `checkpoint.pt`, from which it resumes, and `log.jsonl`: what each
    report says, which is also returned. `say` gets a line for each. Raises BadRecipe if plan,
    photos and networks do not go together.
    """
    preprocess = preprocess or Preprocess(224)
    training = _Training(members, photos, plan, run, preprocess, say, clock)
    training.listen_to(teacher, teacher_preprocess or preprocess)
    return training.run()


class _Training:
    """One call of `attend`."""

    def __init__(
        self,
        members: Mapping[str, nn.Module],
        photos: Bank,
        plan: Plan,
        folder: Path,
        preprocess: Preprocess,
        say: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self.photos, self.plan, self.folder = photos, plan, folder
        self.say, self.clock = say, clock
        self.size_px = plan.image_size_px or preprocess.size_px
        self.preprocess = preprocess
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.checkpoint, self.log = folder / "checkpoint.pt", folder / "log.jsonl"
        held = min(plan.held_out, len(photos) // 5)
        shuffled = torch.randperm(len(photos), generator=torch.Generator().manual_seed(plan.seed))
        self.held_out, self.trained_on = shuffled[:held], shuffled[held:]
        if len(self.trained_on) < plan.batch_size:
            raise BadRecipe(
                f"There are {len(photos)} photos, {held} of them held out, which is less than one "
                f"batch of {plan.batch_size}. Give more photos or a smaller batch_size."
            )
        self.members = [self._member(name, network) for name, network in members.items()]
        self.step, self.seconds, self.rows = 0, 0.0, list[Row]()
        self.state: dict[str, Any] | None = None
        if self.checkpoint.exists():
            self.state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
            self._check_same()
        self.precision: Precision = "no"
        self.teach: Callable[[Tensor], Answers] | None = None
        self.backend = EAGER
        self.order: tuple[int, Tensor] = (-1, torch.empty(0))  # an epoch's number and its order

    def _settled(self) -> dict[str, Any]:
        """What must not change when a training goes on."""
        plan = self.plan.model_dump(mode="json", include=set(Plan.model_fields) - MAY_CHANGE)
        return {**plan, "members": [member.name for member in self.members]}

    def _check_same(self) -> None:
        """Raises BadRecipe if the checkpoint is that of another training."""
        assert self.state is not None
        before, now = self.state["settled"], self._settled()
        if other := [key for key in now if now[key] != before.get(key)]:
            raise BadRecipe(
                f"{self.folder} holds a training with other values of {', '.join(other)}. Set them "
                "as they were to go on with it, or begin another in another folder."
            )

    def _member(self, name: str, network: nn.Module) -> _Member:
        if not blocks(network):
            raise BadRecipe(
                f"The network '{name}' does not say which blocks it has. `cbam.insert(network, "
                "'none')` gives a copy that does."
            )
        network.to(self.device).to(memory_format=torch.channels_last)
        _set_mode(network, self.plan)
        average = copy.deepcopy(network).requires_grad_(False).eval()
        last = blocks(network)[-1]
        member = _Member(
            name,
            network,
            average,
            cut_at(network, last),
            cut_at(average, last),
            _optimisers(name, network, self.plan),
        )
        if member.averages_cut.places:
            member.told = changeable(average, last)
        return member

    def listen_to(self, teacher: nn.Module | None, preprocess: Preprocess) -> None:
        """Make the teacher ready, if there is one, and choose the precision."""
        distil = self.plan.distil
        if distil is None:
            if self.photos.targets is None:
                raise BadRecipe(
                    "The photos have no classes to learn. Give the bank the class folders, or let "
                    "a teacher answer: [distil]."
                )
            targets = self.photos.targets
            self.known = targets[self.held_out].to(self.device)
        elif teacher is None:
            raise BadRecipe("The plan has [distil], but there is no teacher.")
        else:
            self._make_teacher(copy.deepcopy(teacher), distil, preprocess)
        self.precision = self._precision()

    def _make_teacher(self, teacher: nn.Module, distil: Distil, preprocess: Preprocess) -> None:
        teacher = teacher.eval().requires_grad_(False)
        teacher = teacher.to(self.device).to(memory_format=torch.channels_last)
        teacher = teacher if blocks(teacher) else insert(teacher, "none")
        cut = cut_at(teacher, blocks(teacher)[-1])
        self.teacher_px = distil.teacher_size_px or self.size_px
        if self.device.type == "cpu":
            wanted = self.state["backend"] if self.state else distil.backend
            cut, self.backend = accelerate(cut, wanted, self.teacher_px)

        def teach(views: Tensor) -> Answers:
            with torch.no_grad():
                activation, _ = cut.run_trunk(normalise(views, preprocess))
                logits, _ = cut.run_head(activation)
            return activation.mean((2, 3)).float().clone(), logits.float().clone()

        self.teach = teach
        if len(self.held_out):
            held = self.photos.centres(self.held_out, self.teacher_px).to(self.device)
            answers = [teach(some)[1] for some in torch.split(held, self.plan.batch_size)]
            self.known = torch.cat(answers).argmax(1)

    def _precision(self) -> Precision:
        if self.state:
            saved: Precision = self.state["precision"]
            return saved
        if self.plan.precision != "auto":
            return self.plan.precision
        member = self.members[-1]
        last = blocks(member.network)[-1]
        cut = cut_at(copy.deepcopy(member.network), last)  # measuring must not move its norms
        views = self._views(0)
        answers = self.teach(views) if self.teach else None
        targets = self._targets(0)

        def step(precision: Precision) -> None:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16"):
                found = _answers(cut, self._smaller(views))
            torch.autograd.backward(self._loss(found, answers, targets))
            if self.device.type == "cuda":
                torch.cuda.synchronize()

        found = speeds(step, self.plan.batch_size)
        chosen = max(PRECISIONS, key=lambda name: found[name])
        said = ", ".join(f"{named(name)} {each:.0f} photos/s" for name, each in found.items())
        self.say(f"precision {named(chosen)}, the faster one here: {said} ({member.name} alone)")
        return chosen

    # What a step draws.

    def _chosen(self, step: int) -> Tensor:
        """The photos of a step: every epoch in an order of its own, incomplete batches left out."""
        size = self.plan.batch_size
        epoch, position = divmod(step, len(self.trained_on) // size)
        if self.order[0] != epoch:
            draw = torch.Generator().manual_seed(self.plan.seed * 100_003 + epoch)
            self.order = (epoch, torch.randperm(len(self.trained_on), generator=draw))
        return self.trained_on[self.order[1][position * size : (position + 1) * size]]

    def _views(self, step: int) -> Tensor:
        """The step's views, as large as the teacher or, without one, the networks see them."""
        draw = torch.Generator(self.device).manual_seed(self.plan.seed * 1_000_003 + step)
        size_px = self.teacher_px if self.plan.distil else self.size_px
        return self.photos.views(
            self._chosen(step), size_px, self.plan.crop_scale_min, self.plan.colour_jitter, draw
        )

    def _smaller(self, views: Tensor) -> Tensor:
        """Views (B, 3, s, s) as the networks see them: normalised, at their size."""
        if views.shape[-1] != self.size_px:
            views = interpolate(
                views.float(), size=(self.size_px, self.size_px), mode="bilinear", antialias=True
            )
        return normalise(views, self.preprocess)

    def _targets(self, step: int) -> Tensor | None:
        if self.photos.targets is None or self.plan.distil:
            return None
        return self.photos.targets[self._chosen(step)].to(self.device)

    # One step.

    def _loss(self, found: Answers, wanted: Answers | None, targets: Tensor | None) -> Tensor:
        features, logits = found
        distil = self.plan.distil
        if distil is None or wanted is None:
            assert targets is not None
            return cross_entropy(logits, targets, label_smoothing=self.plan.label_smoothing)
        if logits.shape != wanted[1].shape:
            raise BadRecipe(
                f"The teacher knows {wanted[1].shape[1]} classes and the network "
                f"{logits.shape[1]}; they must know the same."
            )
        by = distil.temperature
        answers = (wanted[1] / by).softmax(1)
        loss = by**2 * kl_div((logits / by).log_softmax(1), answers, reduction="batchmean")
        if distil.features:
            if features.shape != wanted[0].shape:
                raise BadRecipe(
                    f"The teacher's features have {wanted[0].shape[1]} channels and the network's "
                    f"{features.shape[1]}. Set features = 0 in [distil] to learn answers alone."
                )
            loss = loss + distil.features * (1 - cosine_similarity(features, wanted[0])).mean()
        return loss

    def _train(self, rate: float) -> None:
        """One batch for all members."""
        torch.manual_seed(self.plan.seed * 1_000_003 + self.step)  # for whatever else draws
        views, targets = self._views(self.step), self._targets(self.step)
        wanted = self.teach(views) if self.teach else None
        images = self._smaller(views)
        for member in self.members:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                found = _answers(member.cut, images)
            loss = self._loss(found, wanted, targets)
            for optimiser, rates in member.optimisers:
                optimiser.zero_grad()
                for group, top in zip(optimiser.param_groups, rates, strict=True):
                    group["lr"] = top * rate
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(member.network.parameters(), self.plan.clip_norm)
            for optimiser, _ in member.optimisers:
                optimiser.step()
            _follow(member.average, member.network, self._share())
            member.losses.append(loss.detach())
        self.step += 1

    def _share(self) -> float:
        """How much of the average stays in this step."""
        return min(self.plan.ema_decay, (1 + self.step) / (EMA_WARM_UP + self.step))

    # The whole.

    def run(self) -> list[Row]:
        """Train to the end of the budget."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.state:
            self.step, self.seconds, self.rows = (
                self.state[key] for key in ("step", "seconds", "rows")
            )
            for member in self.members:
                member.load(self.state["members"][member.name])
            self.say(f"resumed after {self.step * self.plan.batch_size:,} photos")
        started, before, saved = self.clock(), self.seconds, self.clock()
        first = self._done()
        if not self.rows:
            self._report(0.0, 0.0)
        while (done := self._done()) < 1:
            self._train(self.plan.rate(done))
            self.seconds = before + self.clock() - started
            done = self._done()
            if done >= len(self.rows) / self.plan.reports or done >= 1:
                left = (self.clock() - started) / max(done - first, 1e-9) * max(1 - done, 0)
                self._report(done, left)
            if self.clock() - saved >= self.plan.checkpoint_minutes * 60:
                self._save()
                saved = self.clock()
        self._save()
        for member in self.members:
            member.network.load_state_dict(member.average.state_dict())
            member.network.eval()
        return self.rows

    def _done(self) -> float:
        """The share of the budget that is used."""
        if self.plan.samples is not None:
            return self.step * self.plan.batch_size / self.plan.samples
        assert self.plan.minutes is not None
        return self.seconds / (60 * self.plan.minutes)

    def _save(self) -> None:
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "rows": self.rows,
            "precision": self.precision,
            "backend": self.backend,
            "settled": self._settled(),
            "members": {member.name: member.state() for member in self.members},
        }
        with replacing(self.checkpoint) as file:
            torch.save(state, file)

    def _report(self, done: float, left_s: float) -> None:
        """Ask the averages about the photos held out; say it, and write it down."""
        samples = self.step * self.plan.batch_size
        row: Row = {
            "photos": samples,
            "seconds": round(self.seconds, 1),
            "members": {member.name: self._asked(member) for member in self.members},
        }
        self.rows.append(row)
        self.log.write_text("".join(json.dumps(each) + "\n" for each in self.rows), "utf-8")
        speed = f", {samples / self.seconds:.0f} photos/s" if self.seconds else ""
        left = f", {left_s / 60:.0f} min left" if self.step and done < 1 else ""
        said = "; ".join(f"{name}: {_said(found)}" for name, found in row["members"].items())
        self.say(f"{done:4.0%} {samples:,} photos{speed}{left}; {said}")

    @torch.no_grad()
    def _asked(self, member: _Member) -> dict[str, float]:
        """How a member answers about the photos held out.

        `right`: the share answered as the teacher does or, without one, rightly; `right_at_mean`:
        the same with all gates held at their mean over these photos. `spread_<kind>`: how much a
        gate of this kind differs from photo to photo, as the mean deviation of its values.
        """
        found: dict[str, float] = {}
        if member.losses:
            found["loss"] = round(float(torch.stack(member.losses).mean()), 4)
            member.losses.clear()
        if not len(self.held_out):
            return found
        photos = self.photos.centres(self.held_out, self.size_px).to(self.device)
        parts = [self._smaller(some) for some in torch.split(photos, self.plan.batch_size)]
        right, maps = 0, list[Mapping[str, Tensor]]()
        for images, known in zip(parts, torch.split(self.known, self.plan.batch_size), strict=True):
            activation, trunk_maps = member.averages_cut.run_trunk(images)
            logits, head_maps = member.averages_cut.run_head(activation)
            right += int((logits.argmax(1) == known).sum())
            maps.append({**trunk_maps, **head_maps})
        found["right"] = round(right / len(photos), 4)
        if member.told is None:
            return found
        gates = {name: torch.cat([each[name] for each in maps]) for name in maps[0]}
        means = {name: Change.held(gate.mean(0)) for name, gate in gates.items()}
        at_mean = changed(member.told, means)
        right = 0
        for images, known in zip(parts, torch.split(self.known, self.plan.batch_size), strict=True):
            activation, _ = at_mean.run_trunk(images)
            logits, _ = at_mean.run_head(activation)
            right += int((logits.argmax(1) == known).sum())
        found["right_at_mean"] = round(right / len(photos), 4)
        for kind in dict.fromkeys(place.kind.name for place in member.cut.places.values()):
            spreads = [
                float(gates[name].std(0).mean())
                for name, place in member.cut.places.items()
                if place.kind.name == kind
            ]
            found[f"spread_{kind}"] = round(sum(spreads) / len(spreads), 4)
        return found


def _said(found: Mapping[str, float]) -> str:
    percent = {"right": "right", "right_at_mean": "with gates at mean"}
    return ", ".join(
        f"{percent[key]} {value:.1%}" if key in percent else f"{key.replace('_', ' ')} {value:.3f}"
        for key, value in found.items()
    )


def _answers(cut: Cut, images: Tensor) -> Answers:
    """Through the whole network, with gradients."""
    activation, *_ = cut.trunk(images)
    logits, *_ = cut.head(activation)
    return activation.mean((2, 3)).float(), logits.float()


def _set_mode(network: nn.Module, plan: Plan) -> None:
    """What learns is in training mode and wants gradients; the rest keeps its statistics, too."""
    every = plan.train == "all"
    network.train(every).requires_grad_(every)
    for gate in gates_in(network):
        gate.train().requires_grad_()


def _optimisers(name: str, network: nn.Module, plan: Plan) -> list[tuple[Optimizer, list[float]]]:
    """SGD for the trunk, AdamW for the gates, each with its groups' rates.

    At the trunk's rate the gates die: the first layer of a channel gate sees pooled features whose
    squared norm is in the thousands, so that one step turns all of its units off. A step relative
    to each tensor's size cannot.
    """
    of_gates = {id(p): p for gate in gates_in(network) for p in gate.parameters()}
    trunk = [p for p in network.parameters() if id(p) not in of_gates]
    found: list[tuple[Optimizer, list[float]]] = []
    if plan.train == "all":
        groups = [
            {"params": [p for p in trunk if p.ndim > 1], "weight_decay": plan.weight_decay},
            {"params": [p for p in trunk if p.ndim <= 1], "weight_decay": 0.0},
        ]
        sgd = torch.optim.SGD(
            groups, lr=plan.learning_rate, momentum=plan.momentum, nesterov=plan.momentum > 0
        )
        found.append((sgd, [plan.learning_rate] * 2))
    if of_gates:
        each = [{"params": [p]} for p in of_gates.values()]
        adam = torch.optim.AdamW(each, lr=plan.gate_step, weight_decay=0.0)
        found.append((adam, [plan.gate_step * _size(p) for p in of_gates.values()]))
    if not found:
        raise BadRecipe(f"The network '{name}' has no gates, and train = \"gates\" trains nothing.")
    return found


def _size(parameter: Tensor) -> float:
    """The size of a tensor's numbers: of a matrix or kernel, the root of their mean square.

    Where they are all zero, as in a gate that begins still, that of fresh weights.
    """
    if parameter.ndim <= 1:
        return VECTOR_SIZE
    size = float(parameter.detach().square().mean().sqrt())
    return size or 1 / math.sqrt(parameter[0].numel())


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, share: float) -> None:
    """average <- share * average + (1 - share) * network, for weights and norms' statistics."""
    for mine, now in (
        (average.parameters(), network.parameters()),
        (average.buffers(), network.buffers()),
    ):
        pairs = [
            (old, new.detach())
            for old, new in zip(mine, now, strict=True)
            if old.is_floating_point()
        ]
        if pairs:
            olds, news = zip(*pairs, strict=True)
            torch._foreach_lerp_(list(olds), list(news), 1 - share)
