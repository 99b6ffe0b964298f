"""Features: pooled vectors, feature maps by endpoint and by resolution, and timm's method names."""

import copy

import pytest
import segmentation_models_pytorch as smp
import torch
import torchvision
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from inception_zoo import ZooError, create_model, load_model, load_weights, save_model
from inception_zoo.architecture.card import Provenance
from inception_zoo.architecture.nets import ZOO
from inception_zoo.network.encoder import Encoder


@pytest.fixture
def small():
    torch.manual_seed(0)
    return create_model("inception_v3", 7, 1, width=0.125, stem="small", aux=True).double().eval()


@pytest.fixture
def images():
    return torch.rand(2, 1, 40, 40, dtype=torch.float64)


def test_the_methods_agree(small, images):
    maps = small.forward_features(images)
    assert torch.equal(maps, small.endpoints(images)["mixed_7c"])
    torch.testing.assert_close(small.features(images), maps.mean((2, 3)))
    assert small.features(images).shape == (2, small.num_features)
    assert torch.equal(small.forward_head(maps, pre_logits=True), small.features(images))
    assert torch.equal(small.forward_head(maps), small(images))
    assert torch.equal(small.get_classifier()(small.features(images)), small(images))


def test_in_training_only_the_head_drops_features(small, images):
    small.train()
    small.dropout.p = 1.0
    assert small.features(images).any() and not small.forward_head(small.forward_features(images), pre_logits=True).any()


SIDE = 1024  # large: a network without padding has grids that are a little smaller than its strides say


@pytest.mark.parametrize("name", ZOO)
def test_the_last_endpoint_of_each_resolution(name):
    with torch.device("meta"):
        model = create_model(name, width=0.125)
        found = model.eval().pyramid(torch.empty(1, 3, SIDE, SIDE))
    assert [level["reduction"] for level in model.feature_info] == [2, 4, 8, 16, 32]
    assert [level["num_chs"] for level in model.feature_info] == [maps.shape[1] for maps in found]
    assert model.feature_info[-1]["module"] == model.plan.blocks[-1].name
    for level, maps in zip(model.feature_info, found, strict=True):
        assert SIDE / maps.shape[-1] == pytest.approx(level["reduction"], rel=0.2)


def test_v3_has_timms_feature_info():
    import timm

    theirs = timm.create_model("inception_v3", aux_logits=False).feature_info
    with torch.device("meta"):
        ours = create_model("inception_v3").feature_info
    assert [(level["num_chs"], level["reduction"]) for level in ours] == [(t["num_chs"], t["reduction"]) for t in theirs]


def test_endpoints_by_name_stop_after_the_last(small, images):
    ran = []
    for block in small.plan.blocks:
        small.get_submodule(block.name).register_forward_hook(lambda *_, name=block.name: ran.append(name))
    found = small.endpoints(images, ["mixed_6a", "conv_1a"])
    assert list(found) == ["conv_1a", "mixed_6a"] and ran[-1] == "mixed_6a"
    with pytest.raises(ZooError, match="inception_v3: 'mixed_6z' is not an endpoint; did you mean 'mixed_6"):
        small.endpoints(images, ["mixed_6z"])


def test_without_classes_the_network_returns_features(images):
    torch.manual_seed(0)
    model = create_model("inception_v3", 0, 1, width=0.125, stem="small").double().eval()
    assert torch.equal(model(images), model.features(images))
    assert model.outputs(images).aux == {} and isinstance(model.get_classifier(), nn.Identity)


def test_a_new_classifier(small, images):
    before = small.features(images)
    small.reset_classifier(3)
    assert small(images).shape == (2, 3) and small.plan.num_classes == 3
    assert small.outputs(images).aux["mixed_6e"].shape == (2, 3)
    assert small.fc.weight.dtype == torch.float64 and not small.fc.bias.any()
    assert 0.005 < small.fc.weight.std() < 0.015  # initialized as a classifier of this package
    small.reset_classifier(0, global_pool="avg")
    assert torch.equal(small(images), before) and not small.aux
    small.reset_classifier(4)
    assert list(small.aux) == ["mixed_6e"]
    with pytest.raises(ZooError, match="global_pool=max is not supported"):
        small.reset_classifier(4, "max")
    with pytest.raises(ZooError, match="num_classes"):
        small.reset_classifier(-1)


@pytest.mark.parametrize("memory", ["plain", "lean", "minimal"])
def test_features_and_a_new_classifier_in_every_memory_mode(memory):
    torch.manual_seed(0)
    model = create_model("googlenet_bn", 7, 3, width=0.125, memory=memory).bfloat16()
    model.freeze("inception_3b")
    model.reset_classifier(3)
    assert {head.fc.weight.dtype for head in model.aux.values()} == {torch.bfloat16}
    assert not model.conv1.training and not next(model.conv1.parameters()).requires_grad and model.fc.weight.requires_grad
    assert all(module.lean == (memory != "plain") for module in model.aux.modules() if hasattr(type(module), "lean"))
    images = torch.rand(4, 3, 64, 64, dtype=torch.bfloat16)
    outputs = model.outputs(images)
    (outputs.logits.sum() + sum(logits.sum() for logits in outputs.aux.values())).backward()
    assert model.fc.weight.grad is not None and model.aux["inception_4a"].fc.weight.grad is not None
    copied = copy.deepcopy(model.eval())
    copied.reset_classifier(2)
    assert torch.equal(copied.features(images), model.features(images)) and model(images).shape == (4, 3)
    assert [maps.shape[1] for maps in model.pyramid(images)] == [level["num_chs"] for level in model.feature_info]


def test_a_new_classifier_is_noted_in_the_provenance(tmp_path):
    model = create_model("googlenet_bn", 7, 3, width=0.125)
    model.provenance = Provenance("timm:x", "timm", accuracy={"top1": 80.0}, notes=["read"])
    model.reset_classifier(3)
    save_model(model, tmp_path / "net.safetensors")
    origin = load_model(tmp_path / "net.safetensors").provenance
    assert origin.accuracy is None and list(origin.notes) == ["read", "classifier re-initialized for 3 classes"]


def test_a_network_without_classes_is_saved_and_reads_weights_of_one_with_classes(tmp_path, images):
    torch.manual_seed(0)
    model = create_model("inception_v3", 7, 1, width=0.125, stem="small").eval()
    model.classes = list("abcdefg")
    save_model(model, tmp_path / "net.safetensors")
    without = create_model("inception_v3", 0, 1, width=0.125, stem="small", weights=tmp_path / "net.safetensors").eval()
    assert "classifier left out" in without.provenance.notes and without.classes is None
    assert torch.equal(without(images.float()), model.features(images.float()))
    save_model(without, tmp_path / "features.safetensors")
    assert torch.equal(load_model(tmp_path / "features.safetensors")(images.float()), without(images.float()))
    theirs = torchvision.models.inception_v3(weights=None, init_weights=False)
    bare = create_model("inception_v3", 0)
    notes = load_weights(bare, theirs.state_dict(), transform_input=False).notes
    assert "classifier left out" in notes and torch.equal(bare.conv_1a[0][0].conv.weight, theirs.Conv2d_1a_3x3.conv.weight)


def test_endpoints_of_no_name_and_of_a_text(small, images):
    assert small.endpoints(images, []) == {}
    with pytest.raises(ZooError, match="names='mixed_6a' is not a list of endpoints"):
        small.endpoints(images, "mixed_6a")


def test_torchvisions_feature_extractor(small, images):
    extractor = create_feature_extractor(small, {"mixed_5d": "early", "fc": "logits"})
    found = extractor(images)
    assert torch.equal(found["logits"], small(images))
    assert torch.equal(found["early"], small.endpoints(images)["mixed_5d"])


def test_segmentation_models_take_a_network_as_encoder(monkeypatch):
    network = create_model("inception_v3", num_classes=0, aux=False, width=0.125)
    entry = {"encoder": Encoder, "params": {"model": network}, "pretrained_settings": {}}
    monkeypatch.setitem(smp.encoders.encoders, "inception_v3", entry)
    unet = smp.Unet("inception_v3", encoder_weights=None, classes=3, decoder_channels=(32, 16, 16, 8, 8))
    x = torch.randn(2, 3, 128, 96)
    masks = unet(x)
    assert masks.shape == (2, 3, 128, 96)
    masks.sum().backward()
    assert all(parameter.grad is not None for parameter in unet.parameters())
    deep = smp.Unet("inception_v3", encoder_weights=None, encoder_depth=3, decoder_channels=(16, 8, 8))
    assert deep.encoder.out_channels == unet.encoder.out_channels[:4] and deep(x).shape == (2, 1, 128, 96)
    with pytest.raises(ZooError, match="in_channels=1: create the network with in_channels=1, too"):
        smp.Unet("inception_v3", encoder_weights=None, in_channels=1)
    with pytest.raises(ZooError, match="encoder_depth=5: inception_v3 has 4 resolutions with this stem"):
        Encoder(create_model("inception_v3", num_classes=0, aux=False, width=0.125, stem="medium"))
