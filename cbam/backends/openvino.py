"""Trunks compiled by OpenVINO for the CPU, in float32."""

import copy
import warnings
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from queue import Empty, SimpleQueue
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import conv2d

from cbam.trace.cut import TRACING
from cbam.trace.intervene import CHANGEABLE
from cbam.trace.rewrite import Folded, replace_gates, rewritten


class OpenVINO(nn.Module):
    """The trunk compiled by OpenVINO for the CPU, in float32, for images of one size.

    Images of another size go through the plain trunk. A batch runs image by image: for any batch
    size OpenVINO joins fewer operations, and eight images at once took longer than eight in turn.
    Each call has its own inference request, so any number of threads may call at once.

    A trunk that takes `values` for its gates, as `intervene.full_values` gives them, serves the
    network as it is and any change of its gates. All values are one vector, because OpenVINO needs
    time for each input.
    """

    def __init__(
        self, trunk: fx.GraphModule, images: Tensor, folded: Folded, values: Sequence[Tensor] = ()
    ) -> None:
        super().__init__()
        self.plain = trunk
        self.side = images.shape[1:]
        self.shapes = [value.shape[-3:] for value in values]  # for one image
        # Not shared with other trunks: OpenVINO keeps these weights and would copy channels-last.
        own: Folded = {}
        paired = pair_pools(trunk, own)
        for convolution in own.values():
            convolution.to(memory_format=torch.contiguous_format)
        self._compiled = _openvino_model(paired, images[:1], values)
        self._idle: SimpleQueue[Any] = SimpleQueue()

    def forward(self, images: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        flat = self._flat(len(images), values)
        if images.shape[1:] != self.side or flat is None:
            outputs: tuple[Tensor, ...] = self.plain(images, *values)
            return outputs
        try:
            request = self._idle.get_nowait()
        except Empty:  # one for each call of the busiest moment so far
            request = self._compiled.create_infer_request()
        try:
            rows = []
            for image, mine in zip(images, flat, strict=True):
                inputs = [image[None].contiguous().numpy()] + (
                    [mine[None].numpy()] if values else []
                )
                # These are copies: the next call overwrites the request's own tensors.
                found = request.infer(inputs, share_inputs=True)
                rows.append([torch.from_numpy(found[each]) for each in self._compiled.outputs])
        finally:
            self._idle.put(request)
        return tuple(torch.cat(each) for each in zip(*rows, strict=True))

    def _flat(self, count: int, values: Sequence[Tensor]) -> Tensor | None:
        """Each image's values in one row (N, all of them); None if some are larger than a map."""
        if not values:
            return torch.empty(count, 0)
        try:
            full = [
                value.expand(count, *shape).flatten(1)
                for value, shape in zip(values, self.shapes, strict=True)
            ]
        except RuntimeError:  # a gate is told values (C, h, w) in place of a map (1, h, w)
            return None
        return torch.cat(full, dim=1)


def _openvino_model(trunk: fx.GraphModule, images: Tensor, values: Sequence[Tensor]) -> Any:
    """The trunk as OpenVINO's compiled model: float32, for images and values of these shapes."""
    openvino = import_module("openvino")  # not on every machine
    decoders = import_module("openvino.frontend.pytorch.ts_decoder")
    properties, hint = openvino.properties, openvino.properties.hint
    # The frontend, because openvino.convert_model reports its use to Google Analytics.
    frontend = openvino.frontend.FrontEndManager().load_by_framework("pytorch")
    inputs = [images.contiguous()]
    if values:
        inputs.append(torch.cat([value.flatten() for value in values])[None])

    # A function: given the module, the decoder would take longer than all the rest.
    def run(images: Tensor, *flat: Tensor) -> Any:
        sizes = [value.numel() for value in values]
        parts = torch.split(flat[0], sizes, dim=1) if flat else ()
        return trunk(
            images, *(part.view(like.shape) for part, like in zip(parts, values, strict=True))
        )

    # torch.jit.trace is deprecated, but the decoder needs it; and it fails beside another tracing.
    with TRACING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Skip trace's own check, which runs the trunk three more times.
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            run, tuple(inputs), check_trace=False
        )
    decoder = decoders.TorchScriptPythonDecoder(traced)  # in a variable: convert() needs it alive
    model = frontend.convert(frontend.load(decoder))
    shapes = [openvino.PartialShape(list(each.shape)) for each in inputs]
    model.reshape(dict(zip(model.inputs, shapes, strict=True)))
    settings = {
        hint.inference_precision(): openvino.Type.f32,  # its default is bf16 where the CPU has it
        hint.performance_mode(): hint.PerformanceMode.LATENCY,
        properties.inference_num_threads(): torch.get_num_threads(),
    }
    return openvino.Core().compile_model(model, "CPU", settings)


def pair_pools(trunk: fx.GraphModule, folded: Folded | None = None) -> fx.GraphModule:
    """A copy of the trunk that runs CBAM's MLP once for both pooled vectors.

    For back ends that fuse operations themselves. Expects eval mode, as `fuse` does.
    """
    pair = partial(replace_gates, gates=PairedGates, overwritten=False)
    return rewritten(trunk, folded, pair, partial(pair, between=CHANGEABLE))


class PairedGates(nn.Module):
    """Both gates, made from CBAM's layers; the two pooled vectors are a feature map of two pixels.

    x (N, C, H, W) -> x * channel (N, C, H, W), the channel map (N, C, 1, 1) and the spatial map
    (N, 1, H, W). The MLP's second layer is linear, so the hidden vectors are added before it; a
    hidden unit that is always 1 carries its bias, once for each of them. `told`: what
    `intervene.CHANGEABLE` takes for both gates; without it, they are as they are.
    """

    def __init__(self, squeeze: nn.Linear, excite: nn.Linear, conv: nn.Conv2d) -> None:
        super().__init__()
        one = torch.zeros_like(squeeze.weight[:1])
        self.squeeze = torch.cat((squeeze.weight, one))[:, :, None, None]
        self.squeeze_bias = torch.cat((squeeze.bias, one.new_ones(1)))
        self.excite = torch.cat((excite.weight, excite.bias[:, None]), dim=1)[:, :, None, None]
        self.conv = copy.deepcopy(conv)
        self.conv.weight = nn.Parameter(conv.weight.flip(1), requires_grad=False)  # [mean, max]

    def forward(self, x: Tensor, *told: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        of_channel, of_place = told[:3], told[3:]  # keep, given, the weights of avg and max each
        pools = x.mean(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True)
        hidden = conv2d(torch.cat(pools, dim=2), self.squeeze, self.squeeze_bias).relu()
        if told:
            hidden = hidden * of_channel[2][:, None]
        logits = conv2d(hidden.sum(dim=2, keepdim=True), self.excite)
        channel = torch.sigmoid(logits)
        if told:
            channel = channel * of_channel[0] + of_channel[1]
        x = x * channel
        planes = torch.cat((x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)), dim=1)
        if told:
            planes = planes * of_place[2][:, None, None]
        spatial = torch.sigmoid(self.conv(planes))
        return x, channel, spatial * of_place[0] + of_place[1] if told else spatial
