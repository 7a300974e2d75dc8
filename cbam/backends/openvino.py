"""Trunks compiled by OpenVINO for the CPU, in float32."""

import warnings
from importlib import import_module
from queue import Empty, SimpleQueue
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import conv2d

from cbam.trace.cut import TRACING
from cbam.trace.rewrite import Folded, replace_gates, rewritten


class OpenVINO(nn.Module):
    """The trunk compiled by OpenVINO for the CPU, in float32, for images of one size.

    Images of another size go through the plain trunk. A batch runs image by image: for any batch
    size OpenVINO joins fewer operations, and eight images at once took longer than eight in turn.
    Each call has its own inference request, so any number of threads may call at once.
    """

    def __init__(self, trunk: fx.GraphModule, images: Tensor, folded: Folded) -> None:
        super().__init__()
        self.plain = trunk
        self.side = images.shape[1:]
        # Not shared with other trunks: OpenVINO keeps these weights and would copy channels-last.
        own: Folded = {}
        paired = pair_pools(trunk, own)
        for convolution in own.values():
            convolution.to(memory_format=torch.contiguous_format)
        self._compiled = _openvino_model(paired, images[:1])
        self._idle: SimpleQueue[Any] = SimpleQueue()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if images.shape[1:] != self.side:
            outputs: tuple[Tensor, ...] = self.plain(images)
            return outputs
        try:
            request = self._idle.get_nowait()
        except Empty:  # one for each call of the busiest moment so far
            request = self._compiled.create_infer_request()
        try:
            rows = []
            for image in images.unbind():
                # These are copies: the next call overwrites the request's own tensors.
                found = request.infer([image[None].contiguous().numpy()], share_inputs=True)
                rows.append([torch.from_numpy(found[each]) for each in self._compiled.outputs])
        finally:
            self._idle.put(request)
        return tuple(torch.cat(each) for each in zip(*rows, strict=True))


def _openvino_model(trunk: fx.GraphModule, images: Tensor) -> Any:
    """The trunk as OpenVINO's compiled model: float32, for images of this shape."""
    openvino = import_module("openvino")  # not on every machine
    decoders = import_module("openvino.frontend.pytorch.ts_decoder")
    properties, hint = openvino.properties, openvino.properties.hint
    # The frontend, because openvino.convert_model reports its use to Google Analytics.
    frontend = openvino.frontend.FrontEndManager().load_by_framework("pytorch")
    # torch.jit.trace is deprecated, but the decoder needs it; and it fails beside another tracing.
    with TRACING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Trace a function: given the module, the decoder would take longer than all the rest. Skip
        # trace's own check, which runs the trunk three more times.
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            lambda images: trunk(images), (images.contiguous(),), check_trace=False
        )
    decoder = decoders.TorchScriptPythonDecoder(traced)  # in a variable: convert() needs it alive
    model = frontend.convert(frontend.load(decoder))
    model.reshape({model.inputs[0]: openvino.PartialShape(list(images.shape))})
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
    return rewritten(
        trunk, folded, lambda copy: replace_gates(copy, PairedGates, overwritten=False)
    )


class PairedGates(nn.Module):
    """Both gates, made from CBAM's layers; the two pooled vectors are a feature map of two pixels.

    x (N, C, H, W) -> x * channel (N, C, H, W), the channel map (N, C, 1, 1) and the spatial map
    (N, 1, H, W). The MLP's second layer is linear, so the hidden vectors are added before it.
    """

    def __init__(self, squeeze: nn.Linear, excite: nn.Linear, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.squeeze, self.squeeze_bias = squeeze.weight[:, :, None, None], squeeze.bias
        self.excite, self.excite_bias = excite.weight[:, :, None, None], 2 * excite.bias

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, top = x.mean(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True)
        hidden = conv2d(torch.cat((mean, top), dim=2), self.squeeze, self.squeeze_bias).relu()
        hidden = hidden[:, :, :1] + hidden[:, :, 1:]
        channel = torch.sigmoid(conv2d(hidden, self.excite, self.excite_bias))
        x = x * channel
        planes = torch.cat((x.amax(dim=1, keepdim=True), x.mean(dim=1, keepdim=True)), dim=1)
        return x, channel, torch.sigmoid(self.conv(planes))
