"""ECA, BAM, SimAM, GC and CoordAtt: equal to the authors' formulas, and what goes wrong elsewhere.

Each `theirs_*` is written from the authors' paper or code with plain functions and shares nothing
with ours but the weights.
"""

import math
from collections.abc import Callable

import pytest
import torch
from building import lively
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

import cbam
from cbam.attention import ATTENTION, BAM, ECA, GC, CoordAtt, Gate, SimAM
from cbam.attention.eca import kernel_size
from cbam.attention.gates import reduced
from cbam.errors import UnknownName


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 64, 9, 11)


def with_random_weights(module: nn.Module) -> nn.Module:
    """All parameters and statistics off their defaults, zeros included; eval mode."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return lively(module)


def norm(x: Tensor, layer: nn.Module) -> Tensor:
    """Batch norm at inference, written out; channels along dim 1."""
    shape = (1, -1, *[1] * (x.ndim - 2))
    mean, var = layer.running_mean.view(shape), layer.running_var.view(shape)
    scaled = (x - mean) / torch.sqrt(var + 1e-5)
    return scaled * layer.weight.view(shape) + layer.bias.view(shape)


def theirs_eca(x: Tensor, ours: ECA) -> Tensor:
    """models/eca_module.py: adaptive pooling, a 1-d convolution along channels, sigmoid."""
    y = F.adaptive_avg_pool2d(x, 1)
    (weight,) = ours.channel.parameters()
    y = F.conv1d(y.squeeze(-1).transpose(-1, -2), weight, padding=(weight.shape[-1] - 1) // 2)
    return x * torch.sigmoid(y.transpose(-1, -2).unsqueeze(-1)).expand_as(x)


def theirs_bam(x: Tensor, ours: BAM, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """MODELS/bam.py, pooled over both sides."""
    fc, bn, _, final = ours.channel.mlp
    y = F.linear(x.mean((2, 3)), fc.weight, fc.bias)
    channel = F.linear(F.relu(norm(y, bn)), final.weight, final.bias)
    reduce, bn0, _, first, bn1, _, second, bn2, _, last = ours.spatial.convs
    s = F.relu(norm(F.conv2d(x, reduce.weight, reduce.bias), bn0))
    s = F.relu(norm(F.conv2d(s, first.weight, first.bias, padding=4, dilation=4), bn1))
    s = F.relu(norm(F.conv2d(s, second.weight, second.bias, padding=4, dilation=4), bn2))
    spatial = F.conv2d(s, last.weight, last.bias)
    both = combine(channel[:, :, None, None].expand_as(x), spatial.expand_as(x))
    return (1 + torch.sigmoid(both)) * x


def theirs_simam(x: Tensor, lam: float) -> Tensor:
    """The paper's inverse energy, value by value."""
    n = x.shape[2] * x.shape[3] - 1
    out = torch.empty_like(x)
    for photo in range(x.shape[0]):
        for channel in range(x.shape[1]):
            plane = x[photo, channel]
            d = (plane - plane.mean()) ** 2
            out[photo, channel] = plane * torch.sigmoid(d / (4 * (d.sum() / n + lam)) + 0.5)
    return out


def theirs_gc(x: Tensor, ours: GC) -> Tensor:
    """mmdet/ops/gcb/context_block.py with pooling "att" and fusion "channel_add"."""
    batch, channels, height, width = x.shape
    mask = F.conv2d(x, ours.pooling.conv.weight, ours.pooling.conv.bias)
    mask = F.softmax(mask.view(batch, 1, height * width), dim=2).unsqueeze(-1)
    context = torch.matmul(x.view(batch, channels, height * width).unsqueeze(1), mask)
    context = context.view(batch, channels, 1, 1)
    first, layer_norm, _, last = ours.added.mlp
    y = F.conv2d(context, first.weight[:, :, None, None], first.bias)
    flat = y.flatten(1)
    centred = flat - flat.mean(1, keepdim=True)
    flat = centred / torch.sqrt(flat.var(1, keepdim=True, unbiased=False) + 1e-5)
    y = (flat * layer_norm.weight + layer_norm.bias)[:, :, None, None]
    return x + F.conv2d(F.relu(y), last.weight[:, :, None, None], last.bias)


def theirs_coord(x: Tensor, ours: CoordAtt) -> Tensor:
    """coordatt.py: adaptive pooling to rows and columns, h-swish as x relu6(x + 3) / 6."""
    _, _, height, width = x.shape
    rows = F.adaptive_avg_pool2d(x, (height, 1))
    columns = F.adaptive_avg_pool2d(x, (1, width)).permute(0, 1, 3, 2)
    conv, bn, _ = ours.squeeze
    y = norm(F.conv2d(torch.cat([rows, columns], dim=2), conv.weight, conv.bias), bn)
    y = y * (F.relu6(y + 3) / 6)
    y_rows, y_columns = torch.split(y, [height, width], dim=2)
    y_columns = y_columns.permute(0, 1, 3, 2)
    a_rows = F.conv2d(y_rows, ours.rows.conv.weight, ours.rows.conv.bias).sigmoid()
    a_columns = F.conv2d(y_columns, ours.columns.conv.weight, ours.columns.conv.bias).sigmoid()
    return x * a_columns * a_rows


def test_eca_equals_the_authors(x: Tensor):
    ours = with_random_weights(ECA(64, kernel=5))
    assert_close(ours(x), theirs_eca(x, ours), atol=1e-6, rtol=1e-5)
    assert (ours(x) - x * 0.5).abs().max() > 0.05


@pytest.mark.parametrize(("combine", "with_"), [("times", torch.mul), ("plus", torch.add)])
def test_bam_equals_the_authors(x: Tensor, combine: str, with_: Callable[..., Tensor]):
    ours = with_random_weights(BAM(64, combine=combine))
    assert_close(ours(x), theirs_bam(x, ours, with_), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lam", [1e-4, 0.1])
def test_simam_equals_the_paper(x: Tensor, lam: float):
    assert_close(SimAM(64, lam=lam)(x), theirs_simam(x, lam), atol=1e-6, rtol=1e-5)


def test_gc_equals_the_authors(x: Tensor):
    ours = with_random_weights(GC(64))
    assert_close(ours(x), theirs_gc(x, ours), atol=1e-5, rtol=1e-5)
    assert (ours(x) - x).abs().max() > 0.05


def test_coordatt_equals_the_authors(x: Tensor):
    ours = with_random_weights(CoordAtt(64))
    assert_close(ours(x), theirs_coord(x, ours), atol=1e-6, rtol=1e-5)


def test_eca_equals_timms_with_mapped_weights(x: Tensor):
    from timm.layers import EcaModule

    ours, theirs = with_random_weights(ECA(64)), EcaModule(64)
    with torch.no_grad():
        theirs.conv.weight.copy_(ours.channel.conv.weight)
        assert_close(ours(x), theirs(x), atol=1e-6, rtol=1e-5)


def test_gc_equals_timms_gca_with_mapped_weights_and_not_its_gc(x: Tensor):
    from timm.layers.global_context import GlobalContext

    ours = with_random_weights(GC(64))
    first, layer_norm, _, last = ours.added.mlp
    gca = GlobalContext(64, fuse_add=True, fuse_scale=False, rd_ratio=1 / 16).eval()
    gc = GlobalContext(64, fuse_add=False, fuse_scale=True, rd_ratio=1 / 16).eval()
    for theirs, mlp in ((gca, gca.mlp_add), (gc, gc.mlp_scale)):
        with torch.no_grad():
            theirs.conv_attn.load_state_dict(ours.pooling.conv.state_dict())
            for conv, linear in ((mlp.fc1, first), (mlp.fc2, last)):
                conv.weight.copy_(linear.weight[:, :, None, None])
                conv.bias.copy_(linear.bias)
            mlp.norm.weight.copy_(layer_norm.weight)
            mlp.norm.bias.copy_(layer_norm.bias)
            mlp.norm.eps = layer_norm.eps
    with torch.no_grad():
        assert_close(ours(x), gca(x), atol=1e-5, rtol=1e-5)
        assert (ours(x) - gc(x)).abs().max() > 0.1  # timm's "gc" multiplies


def test_coordatt_equals_timms_with_mapped_weights_where_it_has_no_biases(x: Tensor):
    from timm.layers.coord_attn import CoordAttn

    ours = with_random_weights(CoordAtt(64))
    theirs = CoordAttn(64, rd_channels=8).eval()
    conv, bn, _ = ours.squeeze
    pairs = (
        (conv, theirs.conv1),
        (ours.rows.conv, theirs.conv_h),
        (ours.columns.conv, theirs.conv_w),
    )
    with torch.no_grad():
        for mine, other in pairs:
            mine.bias.zero_()
            other.weight.copy_(mine.weight)
        theirs.bn1.load_state_dict(bn.state_dict())
        assert_close(ours(x), theirs(x), atol=1e-6, rtol=1e-5)


# The traps, one test each.


def test_trap_ecas_formula_on_c_is_not_the_kernel_of_the_published_networks():
    assert [kernel_size(c) for c in (256, 512, 1024, 2048)] == [5, 5, 5, 7]
    assert [kernel_size(c) for c in (64, 128, 256, 512)] == [3, 5, 5, 5]
    published = {"256": 3, "512": 5, "1024": 5, "2048": 7}  # as TOML has them
    with torch.device("meta"):
        network = cbam.build("resnet50", "eca", attention_options={"kernel": published})
    sizes = [
        stage[0].attention.channel.conv.kernel_size[0]
        for stage in (network.layer1, network.layer2, network.layer3, network.layer4)
    ]
    assert sizes == [3, 5, 5, 7]
    assert ECA(512, kernel=3).channel.conv.weight.numel() == 3  # the code's default, everywhere
    assert ECA(512).channel.conv.bias is None
    with pytest.raises(UnknownName, match="'64'.*256, 512"):
        ECA(64, kernel=published)
    with pytest.raises(UnknownName, match="'4'"):
        ECA(64, kernel=4)


def test_trap_bams_paper_adds_and_its_weights_multiply(x: Tensor):
    times, plus = with_random_weights(BAM(64)), with_random_weights(BAM(64, combine="plus"))
    assert times.both.combine == "times"  # the default: what the released weights need
    plus.load_state_dict(times.state_dict())
    assert (times(x) - plus(x)).abs().max() > 0.05
    with pytest.raises(UnknownName, match="times, plus"):
        BAM(64, combine="max")


def test_trap_bams_gate_strengthens_and_never_blocks(x: Tensor):
    module = with_random_weights(BAM(64))
    gate = module.both(module.channel(x), module.spatial(x))
    assert gate.shape == x.shape
    assert 1 <= gate.min() < gate.max() <= 2


def test_trap_bams_dilated_convolutions_keep_the_maps_size(x: Tensor):
    # Padded by 1 at dilation 4, 9 x 11 would become 0 x 0; expanding to x's size can hide it.
    assert BAM(64).eval().spatial(x).shape == (2, 1, 9, 11)


def test_trap_bam_pools_over_both_sides_of_a_photo_that_is_no_square():
    module = with_random_weights(BAM(64))
    wide = torch.randn(1, 64, 6, 12)
    assert_close(module.channel(wide), module.channel(wide.transpose(2, 3)))


def test_trap_bam_as_published_is_behind_three_stages_only():
    with torch.device("meta"):
        network = cbam.build("resnet50", "bam", placement="own")
    assert sum(parameter.numel() for parameter in network.parameters()) == 25_915_099
    assert [name for name in network.block_names if "attention" in name] == [
        "layer1.attention",
        "layer2.attention",
        "layer3.attention",
    ]


def test_trap_simams_lambda_changes_the_gates(x: Tensor):
    faint = 0.1 * x  # of variance 0.01: well above 1e-4, well below 0.1
    default, imagenet = SimAM(64), SimAM(64, lam=0.1)
    assert default.volume.lam == 1e-4
    assert (default.volume(faint).mean() - imagenet.volume(faint).mean()) > 0.02


def test_trap_simams_gate_never_closes(x: Tensor):
    gate = SimAM(64).volume(x)
    assert gate.min() >= 1 / (1 + math.exp(-0.5)) - 1e-6  # 0.622
    assert gate.max() <= 1
    assert ATTENTION["simam"].gates[0].lowest == pytest.approx(0.6225, abs=1e-4)
    assert not list(SimAM(64).parameters())


def test_trap_simam_on_a_map_of_one_place_is_a_number():
    one = torch.randn(2, 8, 1, 1)
    assert_close(SimAM(8)(one), one * torch.sigmoid(torch.tensor(0.5)))
    assert theirs_simam(one, 1e-4).isnan().all()


def test_trap_simam_as_published_is_before_the_norm_of_the_3x3():
    torch.manual_seed(0)
    network = lively(cbam.build("resnet50", "simam", placement="own", width=16))
    block = network.layer1[0]
    x = torch.randn(2, 16, 9, 9)
    out = F.relu(block.bn1(block.conv1(x)))
    out = F.relu(block.bn2(SimAM(16)(block.conv2(out))))
    expected = F.relu(block.bn3(block.conv3(out)) + block.downsample(x))
    assert_close(block(x), expected)


def test_trap_gc_adds_and_does_not_gate(x: Tensor):
    module = with_random_weights(GC(64))
    left = module(x) - x  # the same at every place
    assert_close(left, left[:, :, :1, :1].expand_as(left), atol=1e-5, rtol=1e-4)
    assert [kind.use for kind in ATTENTION["gc"].gates] == ["shown", "added"]
    assert [kind.open for kind in ATTENTION["gc"].gates] == [None, 0.0]


def test_trap_gcs_pooling_sums_to_one(x: Tensor):
    pooled = with_random_weights(GC(64)).pooling(x)
    assert pooled.shape == (2, 1, 9, 11)
    assert_close(pooled.sum(dim=(2, 3)), torch.ones(2, 1))


def test_trap_gc_starts_as_the_identity_in_a_network_too(x: Tensor):
    assert_close(GC(64)(x), x)
    torch.manual_seed(0)
    network = cbam.build("resnet18", "gc", width=16)
    assert not network.layer4[1].attention.added.mlp[3].weight.any()
    assert network.layer4[1].attention.pooling.conv.weight.any()


def test_trap_gcs_ratio_is_an_option_and_its_stages_are_the_last_three():
    assert GC(256).added.mlp[0].out_features == 16
    assert GC(256, reduction=4).added.mlp[0].out_features == 64
    with torch.device("meta"):
        network = cbam.build("resnet50", "gc", placement="own")
    has = [any(isinstance(part, GC) for part in getattr(network, f"layer{n}").modules())
           for n in (1, 2, 3, 4)]  # fmt: skip
    assert has == [False, True, True, True]


def test_trap_coordatts_width_is_rounded_down_and_at_least_eight():
    assert [CoordAtt(c).squeeze[0].out_channels for c in (16, 256, 288, 2048)] == [8, 8, 9, 64]
    assert all(
        conv.bias is not None for conv in CoordAtt(64).modules() if isinstance(conv, nn.Conv2d)
    )


def test_trap_coordatt_takes_plain_means_that_any_exporter_knows():
    graph = torch.fx.symbolic_trace(CoordAtt(64))
    called = {str(node.target) for node in graph.graph.nodes}
    assert "mean" in called
    assert not [name for name in called if "adaptive" in name]


def test_a_channel_gates_width_is_rounded_half_upwards():
    assert [reduced(c, 16) for c in (8, 22, 24, 44, 89, 2048)] == [1, 1, 2, 3, 6, 128]


@pytest.mark.parametrize("name", [name for name, record in ATTENTION.items() if record.gates])
def test_every_gate_has_the_shape_of_its_axes_and_keeps_to_its_range(name: str, x: Tensor):
    module = with_random_weights(ATTENTION[name].make(64))
    seen: dict[Gate, Tensor] = {}
    for part in module.modules():
        if isinstance(part, Gate):
            part.register_forward_hook(lambda gate, args, out: seen.update({gate: out}))
    module(x)
    assert len(seen) == len(ATTENTION[name].gates)
    for gate, values in seen.items():
        kind = gate.kind
        sizes = zip("CHW", values.shape[1:], x.shape[1:], strict=True)
        assert all(size == (full if axis in kind.axes else 1) for axis, size, full in sizes)
        if kind.lowest is not None:
            assert values.min() >= kind.lowest - 1e-6
        if kind.highest is not None:
            assert values.max() <= kind.highest + 1e-6
        assert kind.title
        assert (kind.open is None) == (kind.use == "shown")
