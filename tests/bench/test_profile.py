"""`inception-zoo bench profile`: operators, bytes and calls by kind. Its timings are not tested."""

import time

import pytest
import torch
from torch.nn import functional as F

from inception_zoo.bench import profile
from inception_zoo.bench.contenders import Contender, case_of
from inception_zoo.bench.options import Options
from inception_zoo.bench.profile import CASTS, FORWARD, INPUT, LAYOUT, OTHER, REST, WEIGHT, Call, divided, observed, primitives
from inception_zoo.bench.sections import measure
from inception_zoo.bench.tables import profiled
from inception_zoo.network import kernels

LOG = """onednn_verbose,v1,info,oneDNN v3.12
onednn_verbose,v1,1000100.5,primitive,exec,cpu,reorder,jit:uni,undef,src:bf16 dst:bf16,,,32x3x3x3,0.25
onednn_verbose,v1,1000101.0,primitive,exec,cpu,convolution,brg_conv_fwd,forward_training,src:bf16,attr,alg,mb2,1.5
onednn_verbose,v1,1000201.0,primitive,exec,cpu,convolution,brg_conv_bwd,backward_data,src:bf16,attr,alg,mb2,2
onednn_verbose,v1,1000203.0,primitive,exec,cpu,convolution,brg_conv_bwd_w,backward_weights,src:bf16,attr,alg,mb2,3
onednn_verbose,v1,1000300.0,primitive,exec,cpu,matmul,brg_matmul,undef,src:bf16,attr,,4x4:4x4,0.5
"""


def test_the_time_of_a_convolution_is_divided_by_what_onednn_logs():
    assert [each.kind for each in primitives(LOG)] == [LAYOUT, FORWARD, INPUT, WEIGHT, None]
    calls = [Call(FORWARD, 1000.1, 1000.102, 0), Call(INPUT, 1000.2, 1000.21, 0), Call(WEIGHT, 1000.2, 1000.2, 0)]
    calls.append(Call(WEIGHT, 1000.3, 1000.301, 0))  # a matrix product
    expected = {LAYOUT: 0.25, FORWARD: 1.5, INPUT: 2, WEIGHT: 3 + 0.5, REST: (2 - 1.75) + (10 - 5) + (1 - 0.5)}
    assert {kind: 1e3 * seconds for kind, seconds in divided(calls, list(primitives(LOG))).items()} == pytest.approx(expected)


def test_bytes_are_those_of_the_tensors_that_an_operator_reads_and_writes():
    x, weight = torch.randn(2, 8, 5, 5), torch.randn(4, 8, 3, 3, requires_grad=True)

    def turn():
        half = x.to(torch.bfloat16)
        half.permute(0, 2, 3, 1).contiguous()
        torch.zeros(x.shape).copy_(half)
        torch.empty(100)
        F.conv2d(x, weight).sum().backward()
        return 2.0

    calls = observed(turn)
    by_kind = {kind: [call.moved for call in calls if call.kind == kind] for kind in (CASTS, LAYOUT, FORWARD, INPUT, WEIGHT)}
    out = 2 * 4 * 3 * 3 * 4
    assert by_kind == {
        CASTS: [6 * x.numel()] * 2,  # a copy does not read its target
        LAYOUT: [2 * 2 * x.numel()],
        FORWARD: [x.nbytes + weight.nbytes + out],
        INPUT: [],  # the images need no gradient
        WEIGHT: [x.nbytes + weight.nbytes + out],
    }
    assert all(call.start <= call.end <= time.time() for call in calls)


@pytest.mark.skipif(not kernels.library(), reason="no compiled kernels")
@pytest.mark.parametrize(("name", "batch_norms", "convolutions"), [("googlenet_bn", 57, 40), ("inception_v3", 94, 76)])
def test_a_step_calls_the_operators_that_it_needs(name, batch_norms, convolutions):
    """Deterministic figures that the speed depends on: kernel calls, convolutions, casts and copies of the memory format."""
    case = case_of(name, 2, 107 if name == "inception_v3" else 64)
    turn = Contender().trains(case)
    turn()  # the first step creates the optimizer's state
    calls = observed(turn)
    counts = {kind: sum(call.kind == kind for call in calls) for kind in profile.KINDS}
    assert counts["BatchNorm and ReLU"] == 2 * batch_norms and counts["optimizer"] == 1
    assert counts[FORWARD] == convolutions  # 1x1 convolutions with the same input are one; the classifier is another
    assert counts[INPUT] == convolutions - 2  # neither the images nor the classifier, which is a matrix product
    peer = Contender("torchvision").trains(case)
    peer()
    theirs = observed(peer)
    assert len(calls) < len(theirs)
    between = ("BatchNorm and ReLU", "pools", "concatenation", "sums")
    ours, others = (sum(call.moved for call in every if call.kind in between) for every in (calls, theirs))
    assert ours < 0.6 * others


def test_a_profile_names_every_kind_for_every_contender():
    figures = dict(measure("profile", Options(rounds=1, networks=("googlenet_bn",), batch=2, image_size=64)))
    (network,) = profiled(figures)
    assert network == "googlenet_bn batch 2 px 64"
    kinds = ("step", *profile.KINDS)
    for label in ("inception_zoo", "torchvision tuned"):
        step, *parts = (figures[f"profile/{network} {kind}/{label}"].median for kind in kinds)
        assert sum(parts) == pytest.approx(step) and parts[profile.KINDS.index(OTHER)] >= 0
