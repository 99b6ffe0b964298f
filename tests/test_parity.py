"""Every network equal to the public implementations, endpoint by endpoint, in train mode and in evaluation.

With running statistics wrong pooling hardly shows on random weights; with batch statistics and random BatchNorm parameters
it does. Weights go over in the order of definition, which is the same in every pair.
"""

import pytest
import timm
import torch
import torchvision
from torch import nn

from inception_zoo import create_model

LAYERS = nn.Conv2d | nn.BatchNorm2d | nn.Linear


def torchvision_googlenet():
    return torchvision.models.googlenet(weights=None, aux_logits=True, init_weights=False, transform_input=False)


def torchvision_v3():
    return torchvision.models.inception_v3(weights=None, aux_logits=True, init_weights=False, transform_input=False)


V3_ENDPOINTS = {
    "Conv2d_1a_3x3": "conv_1a",
    "Conv2d_2a_3x3": "conv_2a",
    "Conv2d_2b_3x3": "conv_2b",
    "Conv2d_3b_1x1": "conv_3b",
    "Conv2d_4a_3x3": "conv_4a",
    **{f"Mixed_{i}": f"mixed_{i}" for i in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")},
}
RESNET_ENDPOINTS = {
    "conv2d_4a": "conv_4a",
    "maxpool_5a": "pool_5a",
    "mixed_5b": "mixed_5b",
    **{f"repeat.{i}": f"block35_{i + 1}" for i in range(10)},
    "mixed_6a": "mixed_6a",
    **{f"repeat_1.{i}": f"block17_{i + 1}" for i in range(20)},
    "mixed_7a": "mixed_7a",
    **{f"repeat_2.{i}": f"block8_{i + 1}" for i in range(9)},
    "block8": "block8_10",
    "conv2d_7b": "conv_7b",
}
V4_ENDPOINTS = {
    f"features.{i}": name
    for i, name in enumerate(
        ["conv_1a", "conv_2a", "conv_2b", "mixed_3a", "mixed_4a", "mixed_5a"]
        + [
            f"mixed_{i}"
            for i in ("5b", "5c", "5d", "5e", "6a", "6b", "6c", "6d", "6e", "6f", "6g", "6h", "7a", "7b", "7c", "7d")
        ]
    )
}
GOOGLENET_ENDPOINTS = {
    "conv1": "conv1",
    "maxpool1": "pool1",
    "conv2": "conv2",
    "conv3": "conv3",
    "maxpool2": "pool2",
    "maxpool3": "pool3",
    "maxpool4": "pool4",
    **{f"inception{i}": f"inception_{i}" for i in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")},
}
AUX_V1 = {"aux1": "inception_4a", "aux2": "inception_4d"}
AUX_V3 = {"AuxLogits": "mixed_6e"}

# our network, the peer, endpoints (theirs → ours), auxiliary heads, pixels
PAIRS = {
    "torchvision googlenet": ("googlenet_bn", torchvision_googlenet, GOOGLENET_ENDPOINTS, AUX_V1, 224),
    "torchvision googlenet, 161 px": ("googlenet_bn", torchvision_googlenet, GOOGLENET_ENDPOINTS, AUX_V1, 161),
    "torchvision inception_v3": ("inception_v3", torchvision_v3, V3_ENDPOINTS, AUX_V3, 299),
    "timm inception_v3": (
        "inception_v3",
        lambda: timm.create_model("inception_v3", aux_logits=True),
        {**V3_ENDPOINTS, "Pool1": "pool_3a", "Pool2": "pool_5a"},
        AUX_V3,
        299,
    ),
    "timm inception_v4": ("inception_v4", lambda: timm.create_model("inception_v4"), V4_ENDPOINTS, {}, 139),
    "timm inception_resnet_v2": (
        "inception_resnet_v2_slim",
        lambda: timm.create_model("inception_resnet_v2"),
        RESNET_ENDPOINTS,
        {},
        139,
    ),
}


def layers(model, skip):
    return [(name, m) for name, m in model.named_modules() if isinstance(m, LAYERS) and not name.startswith(tuple(skip))]


def copy_weights(theirs, ours, aux):
    pairs = list(zip(layers(theirs, aux), layers(ours, ["aux."]), strict=True))
    for tap_theirs, tap in aux.items():
        head = layers(theirs.get_submodule(tap_theirs), ["\0"]), layers(ours.aux[tap], ["\0"])
        pairs += list(zip(*head, strict=True))
    for (name, source), (_, target) in pairs:
        assert isinstance(source, type(target)), name
        target.load_state_dict(source.state_dict())
        if isinstance(source, nn.BatchNorm2d):
            assert (source.eps, source.momentum) == (target.eps, target.momentum), name


def randomize(model):
    """Random BatchNorm parameters and statistics: untrained ones (1, 0, 0, 1) hide what is swapped or left out."""
    for m in model.modules():
        if isinstance(m, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
            if m.bias is not None:
                nn.init.normal_(m.bias, std=0.1)
        if isinstance(m, nn.BatchNorm2d):
            m.reset_running_stats()
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias, std=0.5)
            nn.init.normal_(m.running_mean)
            nn.init.uniform_(m.running_var, 0.5, 2.0)


def random_peer(make):
    with torch.device("meta"):  # skips the peers' slow initialization
        model = make()
    model = model.to_empty(device="cpu")
    randomize(model)
    return model


def without_dropout(model):
    for m in model.modules():
        if isinstance(m, nn.Dropout):
            m.p = 0.0
    if hasattr(model, "drop_rate"):
        model.drop_rate = 0.0


def difference(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("pair", PAIRS)
def test_parity(pair):
    name, make, endpoints, aux, size = PAIRS[pair]
    torch.manual_seed(0)
    theirs, ours = random_peer(make), create_model(name, aux=bool(aux))
    copy_weights(theirs, ours, aux)
    without_dropout(theirs)
    without_dropout(ours)
    seen = {}
    for module in (*endpoints, *aux):
        theirs.get_submodule(module).register_forward_hook(
            lambda _, __, output, key=module: seen.update({key: output.detach().clone()})
        )
    x = torch.randn(4, 3, size, size)
    for training in (False, True):
        theirs.train(training)
        ours.train(training)
        buffers = [b.clone() for b in ours.buffers()]
        with torch.no_grad():
            their_logits = theirs(x)
            maps = ours.endpoints(x)
            for buffer, saved in zip(ours.buffers(), buffers, strict=True):
                buffer.copy_(saved)  # one update of the running statistics, as theirs had
            outputs = ours.outputs(x)
        compared = {name: difference(maps[name], seen[module]) for module, name in endpoints.items()}
        logits = their_logits if isinstance(their_logits, torch.Tensor) else their_logits[0]
        compared["logits"] = difference(outputs.logits, logits)
        compared |= {f"aux {tap}": difference(outputs.aux[tap], seen[head]) for head, tap in aux.items() if training}
        assert {name: d for name, d in compared.items() if not d <= 1e-5} == {}, f"training={training}"
    assert len(compared) == len(endpoints) + len(aux) + 1
    statistics = [
        difference(b.running_var, a.running_var)
        for (_, a), (_, b) in zip(layers(theirs, aux), layers(ours, ["aux."]), strict=True)
        if isinstance(a, nn.BatchNorm2d)
    ]
    assert max(statistics) <= 1e-5


def test_wrong_pooling_would_be_seen():
    """The proof must be able to fail: one pool off, and the difference is far above its bound."""
    torch.manual_seed(0)
    theirs = random_peer(torchvision_googlenet).train()
    ours = create_model("googlenet_bn", blocks={"pool4": ["max/2"]}).train()
    copy_weights(theirs, ours, AUX_V1)
    without_dropout(theirs)
    without_dropout(ours)
    x = torch.randn(4, 3, 224, 224)
    with torch.no_grad():
        assert difference(ours(x), theirs(x)[0]) > 1e-2
