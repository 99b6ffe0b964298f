"""The zoo: one table per published network. The tables hold only facts and do not import torch."""

from inception_zoo.architecture.nets.bn_inception import BN_INCEPTION
from inception_zoo.architecture.nets.googlenet import GOOGLENET
from inception_zoo.architecture.nets.googlenet_bn import GOOGLENET_BN
from inception_zoo.architecture.nets.inception_resnet_v1 import INCEPTION_RESNET_V1
from inception_zoo.architecture.nets.inception_resnet_v1_facenet import INCEPTION_RESNET_V1_FACENET
from inception_zoo.architecture.nets.inception_resnet_v2 import INCEPTION_RESNET_V2
from inception_zoo.architecture.nets.inception_resnet_v2_slim import INCEPTION_RESNET_V2_SLIM
from inception_zoo.architecture.nets.inception_v1_lucid import INCEPTION_V1_LUCID
from inception_zoo.architecture.nets.inception_v2 import INCEPTION_V2
from inception_zoo.architecture.nets.inception_v2_7x7 import INCEPTION_V2_7X7
from inception_zoo.architecture.nets.inception_v3 import INCEPTION_V3
from inception_zoo.architecture.nets.inception_v3_fid import INCEPTION_V3_FID
from inception_zoo.architecture.nets.inception_v3_slim import INCEPTION_V3_SLIM
from inception_zoo.architecture.nets.inception_v4 import INCEPTION_V4
from inception_zoo.architecture.nets.table import Net
from inception_zoo.architecture.nets.xception import XCEPTION
from inception_zoo.architecture.nets.xception_timm import XCEPTION_TIMM
from inception_zoo.errors import ZooError, did_you_mean

_NETS = (
    GOOGLENET,
    GOOGLENET_BN,
    INCEPTION_V1_LUCID,
    BN_INCEPTION,
    INCEPTION_V2,
    INCEPTION_V2_7X7,
    INCEPTION_V3,
    INCEPTION_V3_SLIM,
    INCEPTION_V3_FID,
    INCEPTION_V4,
    INCEPTION_RESNET_V1,
    INCEPTION_RESNET_V1_FACENET,
    INCEPTION_RESNET_V2,
    INCEPTION_RESNET_V2_SLIM,
    XCEPTION,
    XCEPTION_TIMM,
)
ZOO = {net.name: net for net in _NETS}
ALIASES = {"inception_v1": "googlenet"}


def find_net(name: str) -> Net:
    """Return the table of a network, by name or alias.

    Raises:
        ZooError: The name is unknown; the message has the most similar name, or all names.
    """
    try:
        return ZOO[ALIASES.get(name, name)]
    except KeyError:
        raise ZooError(f"model '{name}' is unknown; {did_you_mean(name, [*ZOO, *ALIASES])}") from None
