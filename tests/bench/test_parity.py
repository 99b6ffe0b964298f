"""Numerical parity of every network with the public implementations, at each endpoint, in train and eval mode."""

import pytest
import torch

from inception_zoo import create_model, export_weights, load_weights
from inception_zoo.bench.parity import PAIRS, KerasPeer, difference, peer_of, prove
from inception_zoo.weights.layouts import LAYOUTS

# Number of compared outputs: endpoints, auxiliary heads and logits. BN-Inception's last block shows in the logits only.
COMPARED = {
    "torchvision googlenet": 19,
    "torchvision googlenet, 161 px": 19,
    "torchvision googlenet, transform_input": 19,
    "torchvision inception_v3": 20,
    "torchvision inception_v3, transform_input": 20,
    "timm inception_v3": 20,
    "timm inception_v3, without aux": 19,
    "timm inception_v4": 23,
    "timm inception_resnet_v2": 52,
    "cadene bninception": 15,
    "cadene inceptionv4": 23,
    "cadene inceptionresnetv2": 52,
    "pytorch-fid inception_v3": 19,
    "torch-fidelity inception_v3": 19,
    "torch-lucent inceptionv1": 17,
    "facenet-pytorch InceptionResnetV1": 30,
    "timm legacy_xception": 17,
    "keras Xception": 17,
    "keras InceptionV3": 19,
    "keras InceptionResNetV2": 51,
}


BOUNDED = "evaluation", "training", "back"
# 10 to 30 s each. Other pairs have the same networks: Cadene's are timm's, timm's V3 is torchvision's.
SLOW = {"cadene inceptionv4", "cadene inceptionresnetv2", "timm inception_v3", "keras InceptionResNetV2"}
SLOW |= {"torchvision inception_v3, transform_input"}  # googlenet has it too


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in PAIRS])
def test_parity(name):
    proof = prove(name, images=2)
    assert proof.round_trip
    assert len(proof.training) == COMPARED[name]
    keras = "keras" in name  # parts of its BatchNorm compute in float32, and batch statistics amplify the rounding
    bounds = {"evaluation": 2e-6, "training": 1e-3, "back": 2e-6} if keras else dict.fromkeys(BOUNDED, 1e-9)
    for what, bound in bounds.items():
        assert {endpoint: d for endpoint, d in getattr(proof, what).items() if not d <= bound} == {}, what


def test_running_statistics_follow_the_peers():
    """After one training batch the whole BatchNorm state equals the peer's: momentum and unbiased variance agree."""
    torch.manual_seed(0)
    peer, ours = peer_of(PAIRS["timm inception_v4"]), create_model("inception_v4", aux=False)
    load_weights(ours, peer.weights())
    before, x = peer.weights(), torch.randn(2, 3, 107, 107)
    with torch.no_grad():
        peer(x, training=True)
        ours.train()(x)
    theirs, after = peer.weights(), export_weights(ours, "timm")
    moved = [key for key in theirs if not torch.equal(theirs[key], before[key])]
    assert len(moved) == 149 * 3  # mean, variance and batch count of every BatchNorm
    assert max(difference(after[key].float(), theirs[key].float()) for key in moved) <= 1e-5


def test_wrong_pooling_would_be_seen():
    """The parity check can fail: with one wrong pool the difference is far above the bound."""
    torch.manual_seed(0)
    peer = peer_of(PAIRS["torchvision googlenet"])
    ours = create_model("googlenet_bn", blocks={"pool4": ["max/2"]}, dropout=0.0, aux=False)
    load_weights(ours, peer.weights(), transform_input=False)
    x = torch.randn(4, 3, 224, 224)
    with torch.no_grad():
        assert difference(ours.train().endpoints(x)["inception_5b"], peer(x, training=True)["inception_5b"]) > 1e-2


def test_keras_pools_are_not_torchvisions():
    """The two Inception-v3 differ only in how average pools count padded zeros; each loads the weights of the other."""
    torch.manual_seed(0)
    peer = KerasPeer("InceptionV3", LAYOUTS["keras"]["inception_v3_slim"], 139)
    right, wrong = create_model("inception_v3_slim", aux=False), create_model("inception_v3", aux=False)
    load_weights(right, peer.weights())
    load_weights(wrong, export_weights(right), "native")
    x = torch.randn(2, 3, 139, 139)
    expected = peer(x, training=False)["logits"]
    with torch.no_grad():
        assert difference(right.eval()(x), expected) < 1e-5
        assert difference(wrong.eval()(x), expected) > 1e-2
