"""A checkpoint that is tested has the network of its run, also in options that no tensor shows."""

import pytest
import torch

from inception_zoo import ZooError, create_model
from inception_zoo.training.checkpoints import check_fits


@pytest.mark.parametrize(("key", "other"), [("activation", "gelu"), ("stem", "small"), ("memory", "lean")])
def test_a_test_names_the_option_that_differs(key, other, tmp_path):
    network = {"name": "googlenet_bn", "width": 0.25, "activation": "relu", "stem": "imagenet", "memory": "plain"}
    model, path = create_model(**network, num_classes=3), tmp_path / "best.ckpt"
    state = {f"model.{name}": weights for name, weights in model.state_dict().items()}
    groups = {"model": {**network, key: other}, "data": {}, "trainer": {}}
    torch.save({"hyper_parameters": groups, "state_dict": state}, path)
    config = {"task": "test", "model": network}
    if key == "memory":  # no effect on the result
        return check_fits(path, model, config)
    with pytest.raises(
        ZooError, match=rf"model.{key}={network[key]}: ckpt=.* was trained with model.{key}={other}; leave it out"
    ):
        check_fits(path, model, config)
